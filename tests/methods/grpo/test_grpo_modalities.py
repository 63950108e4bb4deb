"""Rollouts without a modality, and reasoning that is to depend on one, against other ways to the same numbers."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from mosear.backbones.backbone import OmniBackbone
from mosear.data.batches import split_samples
from mosear.data.sample import collate
from mosear.inference.prompts import Prompts
from mosear.methods.grpo import GRPO
from mosear.methods.grpo.experience import Experience
from mosear.methods.grpo.method import KEPT
from mosear.methods.grpo.modalities import dependence, thought_mask
from mosear.methods.grpo.rewards import accuracy_reward
from mosear.methods.omni_system import OmniSystem
from tests.methods.grpo.test_grpo_method import Hacking, batch_of, gradient, system_of, trained, with_lora

BOTH = (("video", "audio", "text"), ("video", "audio"), ("audio", "text"))
THOUGHT = "<think>so so</think> <answer>sad</answer>"


def first_step(own: OmniBackbone, model: torch.nn.Module, **settings: Any) -> tuple[OmniSystem, GRPO, Experience, Any]:
    system, method = system_of(own, model, beta=0.0, **settings)
    found = method.loss(batch_of(own, kinds=BOTH), 0)
    return system, method, method._kept[0], found


def test_a_dropped_modality_is_gone_from_the_whole_step(qwen25: OmniBackbone) -> None:
    """The prompts that are sampled from and learned from are those in which its tokens are hidden."""
    own, model = with_lora(qwen25)
    whole = Prompts.of(own, batch_of(own, kinds=BOTH)).without_answers()
    seen = set()
    for seed in range(4):
        _, _, kept, found = first_step(own, model, dropped_share=0.999, seed=seed)
        assert found.logs["dropped"].item() == pytest.approx(2 / 3), "the clip without a picture stays whole"
        for row in range(2):
            lost = [name for name in ("visual", "audio") if not bool(kept.prompts.present(name)[row])]
            (name,) = lost
            seen.add(name)
            expected = whole.without([name])
            real, theirs = kept.prompts.real[row], expected.real[row]
            torch.testing.assert_close(kept.prompts.embeds[row][real], expected.embeds[row][theirs])
            assert torch.equal(kept.prompts.positions[:, row][:, real], expected.positions[:, row][:, theirs])
        assert bool(kept.prompts.present("audio")[2])
    assert seen == {"visual", "audio"}


def test_the_share_that_is_dropped(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    system, method = system_of(own, model, dropped_share=0.3, beta=0.0)
    numbers = []
    for step in range(400):
        system.step = step
        numbers += method._sampler.draws(0, 0, [0, 1])
    assert sum(number < 0.3 for number in numbers) / len(numbers) == pytest.approx(0.3, abs=0.05)
    assert numbers == [n for step in range(400) for n in draws_at(system, method, step)], "the same on every visit"
    _, _, kept, found = first_step(own, model)
    assert "dropped" not in found.logs and bool(kept.prompts.present("visual")[0]) and kept.hidden is None


def draws_at(system: Any, method: GRPO, step: int) -> list[float]:
    system.step = step
    return method._sampler.draws(0, 0, [0, 1])


@pytest.mark.parametrize(
    ("text", "thought"),
    [(THOUGHT, "<think>so so"), ("so</think>sad", "so"), ("so so", ""), ("<think>so", ""), ("</think>so", "")],
)
def test_the_tokens_of_a_thought(qwen25: OmniBackbone, text: str, thought: str) -> None:
    tokenizer = qwen25.processor.tokenizer
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    (mask,) = thought_mask([ids], len(ids) + 2, tokenizer)
    found = tokenizer.decode([token for token, inside in zip(ids, mask.tolist(), strict=False) if inside])
    assert len(mask) == len(ids) + 2 and not mask[len(ids) :].any()
    assert thought.startswith(found) and len(thought) - len(found) <= 3, "a token may hold the end of both"


def test_dependence_by_hand() -> None:
    new = torch.tensor([[[-1.0, -2.0, -3.0, -1.0]]], requires_grad=True)
    without = torch.tensor([[[-1.5, -2.0, -9.0, -3.0]]])
    mask = torch.tensor([[[True, True, True, False]]])
    summed, count = dependence(new, without, mask, 1.0)
    first, third = math.exp(-0.5) + 0.5 - 1, math.exp(-6.0) + 6.0 - 1
    assert third > 1
    assert summed.item() == pytest.approx(first + 0.0 + 1.0) and count.item() == 3
    summed.backward()
    assert new.grad[0, 0].tolist() == pytest.approx([1 - math.exp(-0.5), 0.0, 0.0, 0.0]), "nothing beyond the limit"


def test_a_step_raises_what_thoughts_owe_to_a_modality(qwen25: OmniBackbone) -> None:
    """Against passes over batches from which the modality was taken; and a step of descent raises it."""
    own, model = with_lora(qwen25)
    engine = Hacking(own.processor.tokenizer, lambda step, g: THOUGHT if g else "so")
    settings = {"rollout": engine, "group_size": 2, "masked_kl_limit": 100.0}
    _, plain, _, before = first_step(own, model, **settings)
    _, method, kept, found = first_step(own, model, masked_kl=0.5, **settings)
    whole = Prompts.of(own, batch_of(own, kinds=BOTH)).without_answers()
    with torch.no_grad():
        new = method._scores(kept).log_probs
        total = tokens = 0.0
        for row in range(3):
            lost = [n for n in ("visual", "audio") if bool((kept.hidden[row] & kept.prompts.tokens_of(n)[row]).any())]
            assert len(lost) == 1 and (row < 2 or lost == ["audio"])
            shorter = Experience(whole.without(lost), kept.ids, kept.mask, kept.advantage)
            without = method._scores(shorter).log_probs[row]
            length = int(kept.thought[row, 1].sum())
            assert not kept.thought[row, 0].any() and 0 < length < int(kept.mask[row, 1].sum())
            for t in range(length):
                d = float(without[1, t] - new[row, 1, t])
                total, tokens = total + math.exp(d) - d - 1, tokens + 1
    assert found.logs["masked_kl"].item() == pytest.approx(total / tokens, rel=1e-3)
    assert found.logs["loss"].item() == pytest.approx(before.logs["loss"].item() - 0.5 * total / tokens, rel=1e-3)
    step = gradient(found.value, model) - gradient(plain.loss(batch_of(own, kinds=BOTH), 0).value, model)
    offset = 0
    with torch.no_grad():
        for parameter in trained(model):
            parameter -= 0.05 * step[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()
    again = system_of(own, model, beta=0.0, masked_kl=0.5, **settings)[1].loss(batch_of(own, kinds=BOTH), 0)
    assert again.logs["masked_kl"].item() > found.logs["masked_kl"].item()


def test_without_thoughts_nothing_is_added(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    engine = Hacking(own.processor.tokenizer, lambda step, g: "so " * (1 + g))
    plain, asked = (
        first_step(own, model, rollout=engine, group_size=2, masked_kl=weight)[3].value for weight in (0.0, 0.5)
    )
    assert asked.isfinite() and asked.item() == pytest.approx(plain.item(), abs=1e-7)


def test_what_is_hidden_is_kept_for_later_iterations(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    engine = Hacking(own.processor.tokenizer, lambda step, g: THOUGHT + "." * g)
    system, method, kept, _ = first_step(own, model, rollout=engine, group_size=2, masked_kl=0.5, num_iterations=2)
    system.step = 1
    buffer = io.BytesIO()
    torch.save(method.rank_state(), buffer)
    buffer.seek(0)
    (saved,) = torch.load(buffer, weights_only=True)[KEPT]
    again = Experience.of_state(saved, own.device)
    assert torch.equal(again.hidden, kept.hidden) and torch.equal(again.thought, kept.thought)


def test_recombined_clips_have_the_cues_of_both_and_no_label(qwen25: OmniBackbone) -> None:
    """Faces and voices of a batch in which every clip names its own; rewards see what the prompt shows."""
    own, model = with_lora(qwen25)
    kinds = (("video", "audio"),) * 3
    samples = split_samples(batch_of(own, kinds=kinds))
    named = [
        replace(
            sample,
            clip=replace(
                sample.clip, id=str(i), video=f"{i}.mp4", audio="video", text=None,
                cues=json.dumps({"video": [f"face {i}"], "audio": [f"voice {i}"]}),
            ),
        )
        for i, sample in enumerate(samples)
    ]  # fmt: skip
    calls: list[dict[str, Any]] = []

    def remembered(completions: Any, **columns: Any) -> list[float]:
        calls.append(columns)
        return [float(len(text)) for text in completions]

    data = collate(named, own.processor.tokenizer.pad_token_id)
    whole = Prompts.of(own, data).without_answers()
    rewards = {"cues": remembered, "accuracy": accuracy_reward}
    mixed = 0
    for seed in range(6):
        _, method = system_of(own, model, beta=0.0, mixed_rate=0.5, seed=seed, group_size=2, rewards=rewards)
        calls.clear()
        assert method.loss(data, 0).value.isfinite()
        rows = [call["id"][0] for call in calls]
        assert len(rows) == 3
        for place, (name, call) in enumerate(zip(rows, calls, strict=True)):
            if "+" not in name:
                assert name == str(place) and call["label"][0] is not None
                continue
            mixed += 1
            face, voice = map(int, name.split("+"))
            assert face == place and voice != face and call["label"] == [None, None]
            assert call["cues"][0] == {"video": [f"face {face}"], "audio": [f"voice {voice}"], "text": []}
            kept = method._kept[0].prompts
            for modality, source in (("visual", face), ("audio", voice)):
                tokens = kept.embeds[place][kept.tokens_of(modality)[place]]
                assert torch.equal(tokens, whole.embeds[source][whole.tokens_of(modality)[source]])
    assert 6 <= mixed <= 12, "half of three clips, rounded up as often as the fraction says"
