"""Steps of GRPO on one global batch, alone or as one of torchrun's workers; saves losses and gradients.

torchrun --nproc_per_node=2 tests/helpers/grpo_worker.py CHECKPOINT OUT
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from torch import distributed

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

CLIPS, LABELS = 4, ("happy", "sad")
VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {"beta": 0.1},
    "dapo": {"beta": 0.0, "loss_type": "dapo", "redraws": 1, "temperature": 0.5},
    "exact": {"beta": 0.1, "estimator": "exact"},
}


def first_is_even(completions: Any, *, completion_ids: Any, **columns: Any) -> list[float]:
    """A reward in which groups may be alike."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def steps(checkpoint: Path) -> dict[str, Any]:
    """By variant: what is logged, and the gradient that the optimiser would see."""
    from mosear.backbones import load_backbone
    from mosear.data.budget import MediaBudget
    from mosear.data.datamodule import ClipDataModule
    from mosear.data.prompt import Prompt
    from mosear.data.sample import collate
    from mosear.methods.grpo import GRPO
    from mosear.methods.omni_system import OmniSystem
    from mosear.methods.processes import rank, world_size
    from tests.helpers.omni_samples import make_sample

    own = load_backbone(str(checkpoint), dtype="fp32").freeze()
    decoder = own.family.language_model_path
    names = [n for n, _ in own.model.named_modules() if n.startswith(decoder) and n.endswith(("q_proj", "v_proj"))]
    torch.manual_seed(0)
    network = peft.get_peft_model(own.model, peft.LoraConfig(r=2, target_modules=names))
    weights = [p for p in network.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in weights:
            parameter.normal_(std=0.2)
    samples = []
    for index in range(CLIPS):
        sample = make_sample(own, ("text",), index, answer=LABELS[index % 2])
        samples.append(replace(sample, clip=replace(sample.clip, label=LABELS[index % 2])))
    batch = collate(samples[rank() :: world_size()], own.processor.tokenizer.pad_token_id)
    found: dict[str, Any] = {}
    for name, settings in VARIANTS.items():
        method = GRPO(group_size=3, max_new_tokens=3, rewards={"even": first_is_even}, **settings)
        data = ClipDataModule(backbone=own, prompt=Prompt(labels=LABELS), budget=MediaBudget())
        system = OmniSystem(own, network, data, method=method)
        method.setup(system)
        system.on_train_epoch_start()
        loss = method.loss(batch, 0)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss.value, weights)])
        if world_size() > 1:  # as DDP does
            distributed.all_reduce(gradient)
            gradient /= world_size()
        found[name] = {"logs": {n: float(v.mean()) for n, v in loss.logs.items()}, "gradient": gradient}
    found["passes"] = company(own, system, batch)
    return found


def company(own: Any, system: Any, batch: Any) -> list[int]:
    """Passes of the decoder when completions end at different times on the processes, which stay together."""
    from mosear.inference.prompts import Prompts
    from mosear.methods.grpo.rollout import RolloutRequest, sample
    from mosear.methods.processes import rank

    passes = [0]
    handle = own.language_model.register_forward_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    prompts = Prompts.of(own, batch)
    request = RolloutRequest(batch, prompts, 2, 5, 0.0, 1.0, list(range(len(batch))), -1, 0)
    free = sample(own, request, together=True).ids
    end_id = int(free[0, 0, 0])  # the first process's first completion ends at once; the other's never do
    request = replace(request, end_id=end_id if rank() == 0 else -1)
    passes[0] = 0
    ids = sample(own, request, together=True).ids
    assert ids[0, 0, 0] == free[0, 0, 0]
    handle.remove()
    return [*passes, ids.shape[-1]]


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    torch.save(steps(Path(sys.argv[1])), Path(sys.argv[2]) / f"{distributed.get_rank()}.pt")
    distributed.destroy_process_group()
