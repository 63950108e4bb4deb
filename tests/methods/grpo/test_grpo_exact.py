"""The sampled estimator's mean gradient is that of the expected reward, on the embedded backbone."""

from __future__ import annotations

from dataclasses import replace

import peft
import pytest
import torch
from torch import Tensor

from mosear.backbones import load_backbone
from mosear.data.batches import split_samples, without_answer
from mosear.data.budget import MediaBudget
from mosear.data.datamodule import ClipDataModule
from mosear.data.prompt import EMOTIONS, Prompt
from mosear.data.sample import collate
from mosear.inference.scoring import label_log_probs
from mosear.methods.grpo import GRPO
from mosear.methods.grpo.rewards import accuracy_reward
from mosear.methods.omni_system import OmniSystem
from tests.helpers.omni_samples import make_sample

GROUPS, SIZE, LENGTH = 40, 32, 4


@pytest.mark.slow
def test_sampled_gradients_converge_to_the_exact_one() -> None:
    """Projected on the exact direction; the spread over groups says how near the mean must come."""
    own = load_backbone("tiny-omni", dtype="fp32").freeze()
    targets = r"model\.language_model\.layers\.\d+\.self_attn\.[qv]_proj"
    torch.manual_seed(0)
    network = peft.get_peft_model(own.model, peft.LoraConfig(r=2, target_modules=targets))
    weights = [p for p in network.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in weights:
            parameter.normal_(std=0.02)
    sample = make_sample(own, ("video", "audio"), 3, answer="sad")
    clip = replace(sample.clip, label="sad")
    batch = collate([replace(sample, clip=clip, media=own.encode(sample.media))], own.processor.tokenizer.pad_token_id)

    def system_of(**settings: object) -> tuple[OmniSystem, GRPO]:
        method = GRPO(beta=0.0, rewards={"accuracy": accuracy_reward}, **settings)  # type: ignore[arg-type]
        data = ClipDataModule(backbone=own, prompt=Prompt(), budget=MediaBudget())
        system = OmniSystem(own, network, data, method=method)
        method.setup(system)
        system.on_train_epoch_start()
        return system, method

    def gradient(loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    system, exact = system_of(estimator="exact")
    prompt = collate([without_answer(s) for s in split_samples(batch)], own.processor.tokenizer.pad_token_id)
    p = label_log_probs(own, prompt, system.trie).exp()[0]
    right = EMOTIONS.index("sad")
    assert p.sum() > 0.95, "its answers are labels"
    assert 0.05 < p[right] < 0.95, "there is something to learn"
    expected = gradient(-p[right])  # other texts than labels earn 0
    closed = gradient(exact.loss(batch, 0).value)
    direction = closed / closed.norm()
    cosine = torch.dot(expected / expected.norm(), direction)
    assert cosine > 0.98, "the softmax over the labels leaves out what little mass lies on other texts"

    _, sampled = system_of(loss_type="dr_grpo", group_size=SIZE, max_new_tokens=LENGTH)
    along = []
    for number in range(GROUPS):
        along.append(float(torch.dot(gradient(sampled.loss(batch, number).value), direction)))
    found = torch.tensor(along, dtype=torch.float64) * LENGTH * SIZE / (SIZE - 1)
    error = found.std() / GROUPS**0.5
    wanted = float(torch.dot(expected, direction))
    print(f"sampled {found.mean():.5f} +- {error:.5f}, expected {wanted:.5f}, exact {closed.norm():.5f}")
    assert abs(float(found.mean()) - wanted) < 4 * error
    assert abs(wanted) > 8 * error, "it is told from zero"
