"""The arithmetic of GRPO and its variants against literal loops over numbers, and against TRL's own loss."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from mosear.methods.grpo.losses import (
    LOSS_TYPES,
    Objective,
    advantages,
    completion_mask,
    divergence,
    expected_reward,
    label_divergence,
    policy_loss,
    without_variance,
)

P, G, T = 3, 4, 5
NAN = float("nan")


def step(seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random numbers of a whole step: ratios on both sides of the clip, completions of 1 to T tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    lengths = torch.randint(1, T + 1, (P, G), generator=generator)
    new = -draw(P, G, T).abs()
    return {
        "new": new.requires_grad_(True),
        "old": new.detach() + 0.3 * draw(P, G, T),
        "reference": new.detach() + 0.5 * draw(P, G, T),
        "advantage": draw(P, G),
        "mask": torch.arange(T) < lengths[..., None],
    }


def objective(loss_type: str, **settings: Any) -> Objective:
    plain = {"loss_type": loss_type, "beta": 0.04, "clip_low": 0.2, "clip_high": 0.28, "max_tokens": 7}
    return Objective(**{**plain, **settings})


def literal(numbers: dict[str, Tensor], own: Objective) -> tuple[float, int]:
    """The loss, and how many ratios are clipped, with floats and loops."""
    values = {name: tensor.tolist() for name, tensor in numbers.items()}
    of_completions, of_tokens, clipped = [], [], 0
    for p in range(P):
        for g in range(G):
            steps = [t for t in range(T) if values["mask"][p][g][t]]
            a = values["advantage"][p][g]
            logs = {t: values["new"][p][g][t] - values["old"][p][g][t] for t in steps}
            ratios = {t: math.exp(log) for t, log in logs.items()}
            if own.loss_type == "gspo":
                ratios = dict.fromkeys(steps, math.exp(sum(logs.values()) / len(steps)))
            tokens = []
            for t in steps:
                low, high = 1 - own.clip_low, 1 + own.clip_high
                loss = -min(ratios[t] * a, min(max(ratios[t], low), high) * a)
                if own.beta:
                    d = values["reference"][p][g][t] - values["new"][p][g][t]
                    loss += own.beta * (math.exp(d) - d - 1)
                tokens.append(loss)
            out = [r for r in ratios.values() if (r > 1 + own.clip_high and a > 0) or (r < 1 - own.clip_low and a < 0)]
            clipped += len(out) if own.loss_type != "gspo" else bool(out)
            of_completions.append(sum(tokens) / len(tokens))
            of_tokens += tokens
    if own.loss_type in ("grpo", "gspo"):
        return sum(of_completions) / len(of_completions), clipped
    if own.loss_type == "dr_grpo":
        return sum(of_tokens) / (P * G * own.max_tokens), clipped
    return sum(of_tokens) / len(of_tokens), clipped


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_each_loss_is_its_formula(loss_type: str, beta: float) -> None:
    total_clipped = 0
    for seed in range(5):
        numbers, own = step(seed), objective(loss_type, beta=beta)
        found = policy_loss(**numbers, objective=own)
        expected, clipped = literal(numbers, own)
        assert (found.summed / found.count).item() == pytest.approx(expected, rel=1e-12)
        assert int(found.clipped) == clipped
        total_clipped += clipped
        real = P * G if loss_type == "gspo" else int(numbers["mask"].sum())
        assert int(found.ratios) == real
    assert total_clipped, "some ratios must be outside the clip, or it is not tested"


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_what_lies_behind_the_end_counts_nothing(loss_type: str) -> None:
    numbers = step()
    other = {**numbers, "new": numbers["new"].detach().masked_fill(~numbers["mask"], -50.0).requires_grad_(True)}
    losses = [policy_loss(**own, objective=objective(loss_type)).summed for own in (numbers, other)]
    assert losses[0].item() == losses[1].item()
    losses[1].backward()
    assert other["new"].grad is not None and (other["new"].grad[~numbers["mask"]] == 0).all()


def test_a_first_update_has_the_gradient_of_the_log_probabilities() -> None:
    """With ``old = new`` the ratio is 1: the gradient is ``-A / (length completions)`` at each token."""
    numbers = step() | {"reference": torch.zeros(P, G, T, dtype=torch.float64)}
    numbers["old"] = numbers["new"].detach()
    found = policy_loss(**numbers, objective=objective("grpo", beta=0.0))
    (gradient,) = torch.autograd.grad(found.summed / found.count, numbers["new"])
    real = numbers["mask"].double()
    torch.testing.assert_close(gradient, -numbers["advantage"][..., None] * real / real.sum(-1, keepdim=True) / (P * G))


def test_the_mask_ends_with_the_first_end_token() -> None:
    ids = torch.tensor([[[5, 9, 9, 5], [5, 6, 7, 8], [9, 1, 2, 3], [1, 2, 3, 9]]])
    expected = torch.tensor([[[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]]).bool()
    assert torch.equal(completion_mask(ids, 9), expected)


def test_advantages_by_hand() -> None:
    rows = [[0.0, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0], [NAN, 1.0, 3.0, NAN], [NAN] * 4]
    found = advantages(torch.tensor(rows, dtype=torch.float64), scale=True)
    plain = advantages(torch.tensor(rows, dtype=torch.float64), scale=False)
    for row, scaled, unscaled in zip(rows, found.tolist(), plain.tolist(), strict=True):
        known = [r for r in row if r == r]
        mean = sum(known) / len(known) if known else 0.0
        spread = statistics.stdev(known) if len(known) > 1 else 0.0
        expected = [(r - mean) if r == r else 0.0 for r in row]
        assert unscaled == pytest.approx(expected)
        assert scaled == pytest.approx([value / (spread + 1e-4) for value in expected])


def test_groups_without_variance() -> None:
    rows = [[0.0, 1.0], [1.0, 1.0], [NAN, 1.0], [NAN, NAN]]
    assert without_variance(torch.tensor(rows)).tolist() == [False, True, True, True]


def test_the_divergence_is_unbiased_and_never_negative() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    k3 = divergence(p.log(), q.log())
    assert (k3 >= 0).all() and divergence(p.log(), p.log()).abs().max() == 0
    exact = float((p * (p / q).log()).sum())
    assert float((p * k3).sum()) == pytest.approx(exact, rel=1e-6), "its mean over tokens of p"
    assert float(label_divergence(p.log()[None], q.log()[None])) == pytest.approx(exact, rel=1e-6)


def test_sampled_gradients_converge_to_the_exact_one() -> None:
    """40,000 groups of four one-token answers; the standard error of their mean says how near it must come."""
    torch.manual_seed(0)
    groups, size, labels = 40_000, 4, 5
    logits = torch.randn(labels, dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, 0.25, 0.0, 2.0], dtype=torch.float64)
    log_p = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad(-expected_reward(log_p[None], rewards[None]).sum(), logits, retain_graph=True)
    ids = torch.multinomial(log_p.detach().exp(), groups * size, replacement=True).view(groups, size, 1)
    gain = advantages(rewards[ids[..., 0]], scale=False)
    # The gradient of one group is linear in the one-hot rows of its tokens: keep each, to know the spread.
    one_hot = torch.nn.functional.one_hot(ids[..., 0], labels).double()
    of_groups = -(gain[..., None] * (one_hot - log_p.detach().exp())).mean(1)
    found = policy_loss(
        log_p[ids], log_p[ids].detach(), None, gain, torch.ones_like(ids, dtype=torch.bool),
        Objective("dr_grpo", 0.0, 0.2, 0.2, 1),
    )  # fmt: skip
    (sampled,) = torch.autograd.grad(found.summed / found.count, logits)
    torch.testing.assert_close(sampled, of_groups.mean(0))
    error = of_groups.std(0) / groups**0.5
    z = (sampled - exact * (size - 1) / size) / error
    assert z.abs().max() < 4
    assert ((sampled - exact) / error).abs().max() > 20, "without the factor (G - 1) / G it would not fit"


# -- TRL ---------------------------------------------------------------------------------------------------------------


def trl_loss(numbers: dict[str, Tensor], own: Objective) -> Tensor:
    """What TRL's trainer computes from the same log-probabilities (its forward pass gives ours)."""
    from accelerate import Accelerator
    from trl import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    flat = {name: tensor.flatten(0, 1) for name, tensor in numbers.items()}
    trainer = object.__new__(GRPOTrainer)
    args = GRPOConfig(
        output_dir="unused", use_cpu=True, bf16=False, report_to=[], num_generations=G,
        per_device_train_batch_size=P * G, use_bias_correction_kl=False,
    )  # fmt: skip
    trainer.args, trainer.accelerator = args, Accelerator(cpu=True)
    trainer.model = torch.nn.Linear(1, 1)
    trainer.loss_type = "grpo" if own.loss_type == "gspo" else own.loss_type
    trainer.importance_sampling_level = "sequence" if own.loss_type == "gspo" else "token"
    trainer.beta, trainer.epsilon_low, trainer.epsilon_high = own.beta, own.clip_low, own.clip_high
    trainer.max_completion_length, trainer.current_gradient_accumulation_steps = own.max_tokens, 1
    trainer.aux_loss_enabled, trainer.top_entropy_quantile, trainer.off_policy_mask_threshold = False, 1.0, None
    trainer.use_vllm, trainer._entropy_bonus_enabled = False, False
    trainer._metrics = {"train": defaultdict(list)}
    trainer.args.steps_per_generation = 1
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (flat["new"], torch.zeros_like(flat["new"]), None)
    ids = torch.zeros(P * G, T, dtype=torch.long)
    mask = flat["mask"].long()
    return trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": ids, "prompt_mask": torch.ones_like(ids), "completion_ids": ids, "completion_mask": mask,
            "advantages": flat["advantage"].flatten(), "old_per_token_logps": flat["old"],
            "ref_per_token_logps": flat["reference"], "num_items_in_batch": mask.sum(),
        },
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_whole_step_is_that_of_trl(loss_type: str, beta: float) -> None:
    pytest.importorskip("trl", reason="needs trl (not installed): pip install trl")
    for seed in range(3):
        numbers, own = step(seed), objective(loss_type, beta=beta)
        found = policy_loss(**numbers, objective=own)
        theirs = trl_loss(numbers, own)
        torch.testing.assert_close(found.summed / found.count, theirs)
        mine, other = (torch.autograd.grad(loss, numbers["new"])[0] for loss in (found.summed / found.count, theirs))
        torch.testing.assert_close(mine, other)
