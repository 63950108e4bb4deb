"""Whole steps of GRPO on tiny random backbones: values against literal loops, resuming, redrawing, hacking policies."""

from __future__ import annotations

import io
import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.data.budget import MediaBudget
from mosear.data.datamodule import ClipDataModule
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, collate
from mosear.inference.scoring import label_log_probs
from mosear.methods.grpo import GRPO
from mosear.methods.grpo.losses import completion_mask
from mosear.methods.grpo.rewards import accuracy_reward
from mosear.methods.grpo.rollout import CachedRollout, Completions, RolloutRequest
from mosear.methods.grpo.watch import WINDOW, Watch
from mosear.methods.omni_system import OmniSystem
from tests.helpers.mose_models import adapted
from tests.helpers.omni_samples import fresh, make_sample

LABELS = ("happy", "sad", "angry")
KINDS = (("video", "audio", "text"), ("audio",), ("text",))
SHORT = (("text",),) * 3


def share_of_even(
    completions: Sequence[str], *, completion_ids: Sequence[Sequence[int]], **columns: Any
) -> list[float]:
    """A reward that random completions differ in: the share of even token ids."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def batch_of(own: OmniBackbone, seeds: Sequence[int] = (0, 1, 2), kinds: Sequence[Sequence[str]] = KINDS) -> OmniBatch:
    """Encoded clips with answers."""
    samples = []
    for place, seed in enumerate(seeds):
        sample = make_sample(own, kinds[place], seed, answer=LABELS[place])
        clip = replace(sample.clip, label=LABELS[place])
        samples.append(replace(sample, clip=clip, media=own.encode(sample.media)))
    return collate(samples, own.processor.tokenizer.pad_token_id)


def with_lora(backbone: OmniBackbone, *, wake: float = 0.2) -> tuple[OmniBackbone, peft.PeftModel]:
    own = fresh(backbone).freeze()
    names = [
        f"{own.family.language_model_path}.{name}"
        for name, _ in own.language_model.named_modules()
        if name.endswith(("q_proj", "v_proj"))
    ]
    torch.manual_seed(0)
    model = peft.get_peft_model(own.model, peft.LoraConfig(r=2, target_modules=names))
    if wake:
        for parameter in trained(model):
            torch.nn.init.normal_(parameter, std=wake)
    return own, model


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def system_of(own: OmniBackbone, model: torch.nn.Module, **settings: Any) -> tuple[OmniSystem, GRPO]:
    """A system without a trainer."""
    plain = {"group_size": 4, "max_new_tokens": 5, "rewards": {"even": share_of_even}}
    method = GRPO(**{**plain, **settings})
    data = ClipDataModule(backbone=own, prompt=Prompt(labels=LABELS), budget=MediaBudget())
    system = Stepping(own, model, data, method=method)
    method.setup(system)
    system.on_train_epoch_start()
    return system, method


class Stepping(OmniSystem):
    """Its steps are counted by the test."""

    step = 0

    @property
    def steps_done(self) -> int:
        return self.step


def gradient(loss: Tensor, model: torch.nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained(model))])


# -- a step ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["lora", "mose"])
def test_a_whole_step_by_hand(qwen25: OmniBackbone, adapter: str) -> None:
    """Rewards, advantages, divergence and means with floats; the log-probabilities from passes tested elsewhere."""
    own, model = with_lora(qwen25) if adapter == "lora" else adapted(qwen25, balance_weight=0.3)
    _, method = system_of(own, model, loss_type="grpo", beta=0.1)
    found = method.loss(batch_of(own), 0)
    (kept,) = method._kept
    scores = method._scores(kept)
    new, reference = scores.log_probs.tolist(), method._reference(kept).tolist()
    total = divergence = tokens = 0.0
    rewards = []
    for p in range(3):
        lengths = kept.mask[p].sum(-1).tolist()
        ids = [row[:n] for row, n in zip(kept.ids[p].tolist(), lengths, strict=True)]
        worth = share_of_even([], completion_ids=ids)
        rewards += worth
        for g, n in enumerate(lengths):
            a = (worth[g] - statistics.mean(worth)) / (statistics.stdev(worth) + 1e-4)
            d = [reference[p][g][t] - new[p][g][t] for t in range(n)]
            k3 = [float(torch.tensor(x).exp()) - x - 1 for x in d]
            total += sum(-a + 0.1 * k for k in k3) / n / 12
            divergence, tokens = divergence + sum(k3), tokens + n
    assert len(set(rewards)) > 3
    assert found.logs["loss"].item() == pytest.approx(total, abs=1e-5)
    assert found.logs["reward"].item() == pytest.approx(statistics.mean(rewards), rel=1e-5)
    assert found.logs["reward/even"].item() == found.logs["reward"].item()
    assert found.logs["kl"].item() == pytest.approx(divergence / tokens, rel=1e-4, abs=1e-6)
    assert found.logs["length"].item() == pytest.approx(tokens / 12)
    assert found.logs["rollout_gap"].item() < 1e-4, "the samples come from the policy that is scored"
    assert found.logs["entropy"].item() > 0 and found.logs["clipped"].item() == 0
    if adapter == "mose":
        gate = found.logs["gate_balance"].mean()
        assert found.value.item() == pytest.approx(total + 0.3 * gate.item(), abs=1e-5)
    assert gradient(found.value, model).abs().sum() > 0
    assert all(module.training for module in own.language_model.modules()), "training mode is given back"


def test_a_step_is_a_function_of_seed_step_and_micro_batch(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    data = batch_of(own)

    def ids(seed: int = 0, step: int = 0, micro: int = 0) -> Tensor:
        torch.manual_seed(step + 17 * micro)  # global generators do not matter
        system, method = system_of(own, model, seed=seed)
        system.step = step
        for index in range(micro + 1):
            method.loss(data, index)
        return method._kept[-1].ids

    first = ids()
    assert torch.equal(first, ids())
    assert not any(torch.equal(first, other) for other in (ids(seed=1), ids(step=1), ids(micro=1)))


def test_groups_without_variance_teach_nothing(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    _, method = system_of(own, model, beta=0.0, rewards={"one": lambda completions, **_: [1.0] * len(completions)})
    found = method.loss(batch_of(own), 0)
    assert found.logs["zero_variance"].item() == 1
    assert gradient(found.value, model).abs().max() == 0


def test_without_beta_there_is_no_reference_pass(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    for beta, passes in ((0.0, 0), (0.1, 1)):
        system, method = system_of(own, model, beta=beta)
        entered: list[int] = []
        untuned = system.untuned
        system.untuned = lambda untuned=untuned, entered=entered: entered.append(1) or untuned()  # type: ignore[method-assign]
        method.loss(batch_of(own), 0)
        assert len(entered) == passes


def test_iterations_learn_again_from_the_same_completions(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    system, method = system_of(own, model, num_iterations=2, beta=0.1)
    first, second = batch_of(own), batch_of(own, (7, 8, 9))
    before = method.loss(first, 0)
    kept = method._kept[0]
    old, reference = kept.old, kept.reference
    with torch.no_grad():
        for parameter in trained(model):
            parameter += 0.05 * torch.randn_like(parameter)
    system.step = 1
    again = method.loss(second, 0)
    assert method._kept[0] is kept and kept.old is old and kept.reference is reference
    assert again.logs["loss"].item() != before.logs["loss"].item()
    assert "reward" in before.logs and "reward" not in again.logs, "nothing was drawn"
    new = method._scores(kept).log_probs
    assert not torch.allclose(new[kept.mask], old[kept.mask]), "ratios are no longer 1"
    system.step = 2
    method.loss(second, 0)
    assert method._kept[0] is not kept and len(method._kept) == 1


def test_a_resumed_iteration_is_bitwise_the_one_that_was_not(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    system, method = system_of(own, model, num_iterations=2)
    method.loss(batch_of(own), 0)
    system.step = 1
    buffer = io.BytesIO()
    torch.save({"shared": method.state_dict(), "own": method.rank_state()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    expected = method.loss(batch_of(own, (7, 8, 9)), 0)
    other_system, other = system_of(own, model, num_iterations=2)
    other_system.step = 1
    other.load_state_dict(saved["shared"])
    other.load_rank_state(saved["own"])
    found = other.loss(batch_of(own, (7, 8, 9)), 0)
    assert torch.equal(found.value, expected.value)
    assert other.watch.sums == method.watch.sums and other.watch.steps == [0, 1]
    other_system.step = 2
    assert other.rank_state()["grpo_kept"] == [], "what is not needed again is not saved"


class Scripted:
    """An engine of its own: writes what it is told, by the number of its calls."""

    def __init__(self, scripts: Sequence[Sequence[Sequence[Sequence[int]]]]) -> None:
        self.scripts, self.calls = list(scripts), 0
        self.sizes: list[int] = []

    def setup(self, system: OmniSystem) -> None:
        assert system.backbone is not None

    def __call__(self, request: RolloutRequest) -> Completions:
        script = torch.tensor(self.scripts[min(self.calls, len(self.scripts) - 1)])
        self.calls += 1
        self.sizes.append(len(request.seeds))
        return Completions(script[: len(request.seeds)])


ALIKE, APART = [[2, 4], [2, 4]], [[2, 4], [3, 5]]


def test_dapo_draws_groups_without_variance_again(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    engine = Scripted([[ALIKE, APART, ALIKE], [ALIKE, APART], [[[6, 8], [3, 3]]]])
    settings = {"group_size": 2, "max_new_tokens": 2, "rollout": engine, "beta": 0.0}
    _, method = system_of(own, model, loss_type="dapo", redraws=3, **settings)
    found = method.loss(batch_of(own), 0)
    assert engine.sizes == [3, 2, 1], "those that differ stay"
    assert method._kept[0].ids.tolist() == [[[6, 8], [3, 3]], APART, APART]
    assert found.logs["zero_variance"].item() == 0 and "rollout_gap" not in found.logs
    stubborn = Scripted([[ALIKE] * 3])
    _, method = system_of(own, model, loss_type="dapo", redraws=2, **{**settings, "rollout": stubborn})
    assert method.loss(batch_of(own), 0).logs["zero_variance"].item() == 1
    assert stubborn.calls == 3, "the bound"


# -- exact -------------------------------------------------------------------------------------------------------------


def test_exact_by_hand(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    worth = {"happy": 1.0, "sad": 0.25, "angry": 0.5}
    rewards = {
        "accuracy": accuracy_reward,
        "word": lambda completions, **_: [worth[text] for text in completions],
    }
    system, method = system_of(own, model, estimator="exact", beta=0.1, rewards=rewards, weights={"word": 2.0})
    data = batch_of(own)
    found = method.loss(data, 0)
    with torch.no_grad():
        log_p = label_log_probs(own, data, system.trie).log_softmax(-1).double()
        with system.untuned():
            log_q = label_log_probs(own, data, system.trie).log_softmax(-1).double()
    losses, expected = [], []
    for row, (lp, lq) in enumerate(zip(log_p.exp().tolist(), log_q.exp().tolist(), strict=True)):
        j = sum(p * (float(name == LABELS[row]) + 2 * worth[name]) for p, name in zip(lp, LABELS, strict=True))
        kl = sum(p * float(torch.tensor(p / q).log()) for p, q in zip(lp, lq, strict=True))
        losses.append(0.1 * kl - j)
        expected.append(j)
    assert found.value.item() == pytest.approx(statistics.mean(losses), rel=1e-5)
    assert found.logs["reward"].item() == pytest.approx(statistics.mean(expected), rel=1e-5)
    assert gradient(found.value, model).abs().sum() > 0


def test_exact_learns_and_a_policy_that_hacks_it_is_named(
    qwen25: OmniBackbone, caplog: pytest.LogCaptureFixture
) -> None:
    """A reward that pays for one label, whatever the clip: the policy learns to say nothing else."""
    own, model = with_lora(qwen25, wake=0.05)
    rewards = {"pays": lambda completions, **_: [float(text == "sad") for text in completions]}
    system, method = system_of(own, model, estimator="exact", beta=0.0, rewards=rewards)
    optimiser = torch.optim.Adam(trained(model), lr=0.1)
    data = batch_of(own, kinds=SHORT)
    with caplog.at_level(logging.WARNING):
        for _ in range(2 * WINDOW + 1):
            found = method.loss(data, 0)
            optimiser.zero_grad()
            found.value.backward()
            optimiser.step()
            system.step += 1
    assert found.logs["reward"].item() > 0.95
    (told,) = [record.message for record in caplog.records if "one_label" in record.message]
    assert "'sad', which 33% of the clips are" in told
    assert method.summary()["grpo"]["warnings"] == ["one_label"]
    titles = [chart.title for chart in method.charts()]
    assert "Rewards" in titles and "KL and entropy per token (nats)" in titles


# -- watching ----------------------------------------------------------------------------------------------------------


class Hacking:
    """A policy that has found out what pays: longer and longer, or the same tags over and over."""

    def __init__(self, system_tokenizer: Any, write: Any) -> None:
        self.tokenizer, self.write, self.step = system_tokenizer, write, 0

    def setup(self, system: OmniSystem) -> None:
        self.system = system

    def __call__(self, request: RolloutRequest) -> Completions:
        step = self.system.steps_done
        rows = []
        for _ in request.seeds:
            texts = [self.write(step, g) for g in range(request.group_size)]
            rows.append([[*self.tokenizer(text)["input_ids"], request.end_id] for text in texts])
        length = max(len(row) for group in rows for row in group)
        padded = [[row + [request.pad_id] * (length - len(row)) for row in group] for group in rows]
        return Completions(torch.tensor(padded))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("length", lambda step, g: "so " * (2 + g + step // 4)),
        ("repeated_tags", lambda step, g: "<answer>sad</answer>" * (1 + g)),
        ("one_label", lambda step, g: "sad" + "." * g),
        ("no_variance", lambda step, g: "so"),
    ],
)
def test_hacking_is_warned_about_by_name(
    qwen25: OmniBackbone, caplog: pytest.LogCaptureFixture, name: str, write: Any
) -> None:
    own, model = with_lora(qwen25)
    engine = Hacking(own.processor.tokenizer, write)
    rewards = {"long": lambda completions, completion_ids, **_: [float(len(ids)) for ids in completion_ids]}
    system, method = system_of(own, model, rollout=engine, beta=0.0, rewards=rewards, group_size=2)
    data = batch_of(own, kinds=SHORT)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(WINDOW + 2 if name != "length" else 2 * WINDOW + 1):
            method.loss(data, 0)
            system.step += 1
    assert any(f", {name}: " in record.message for record in caplog.records)
    assert len([record for record in caplog.records if f", {name}: " in record.message]) == 1, "once"
    assert name in method.summary()["grpo"]["warnings"]


def test_nothing_is_warned_about_in_a_healthy_run(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    with caplog.at_level(logging.WARNING):
        for step in range(3 * WINDOW):
            right = 4.0 + step / 10
            watch.add(step, {
                "completions": 16.0, "groups": 4.0, "no_variance": 1.0, "length": 160.0 + 3 * step, "parsed": 16.0,
                "labelled": 16.0, "right": right, "repeated": 1.0, "said/happy": 9.0, "said/sad": 7.0,
                "gold/happy": 8.0, "gold/sad": 8.0,
            })  # fmt: skip
    assert caplog.records == [] and watch.summary()["warnings"] == []


def test_sums_of_micro_batches_add_up_to_a_step() -> None:
    watch = Watch()
    for step, length in ((0, 10.0), (0, 20.0), (1, 8.0)):
        watch.add(step, {"completions": 4.0, "length": length})
    assert [watch.figures(row)["length"] for row in watch.sums] == [3.75, 2.0]
    assert Watch(watch.state_dict()).sums == watch.sums


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="must name at least one reward"):
        GRPO()
    with pytest.raises(ValueError, match="group_size=1 must be at least 2"):
        GRPO(group_size=1, rewards={"accuracy": accuracy_reward})
    with pytest.raises(ValueError, match="rollout='engine' must have the methods"):
        GRPO(rollout="engine", rewards={"accuracy": accuracy_reward})  # type: ignore[arg-type]
    assert isinstance(GRPO(rewards={"accuracy": accuracy_reward}).rollout, CachedRollout)


def test_a_mask_covers_what_was_written(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    _, method = system_of(own, model)
    method.loss(batch_of(own), 0)
    (kept,) = method._kept
    assert torch.equal(kept.mask, completion_mask(kept.ids, own.processor.tokenizer.eos_token_id))
