"""Optimiser groups and learning rates against values computed by hand."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from mosear.methods.optim import Tuning, build_optimiser, build_schedule
from tests.helpers.run_if import RunIf

ROOT = Path(__file__).parents[2]


def parameters() -> dict[str, nn.Parameter]:
    return {
        "matrix": nn.Parameter(torch.ones(2, 3)),
        "stack": nn.Parameter(torch.ones(2, 3, 4)),
        "vector": nn.Parameter(torch.ones(3)),
        "frozen": nn.Parameter(torch.ones(2, 3), requires_grad=False),
    }


def rates(tuning: Tuning, steps: int) -> list[float]:
    """The learning rate of each step."""
    optimiser = build_optimiser([nn.Parameter(torch.ones(1, 1))], tuning)
    schedule = build_schedule(optimiser, tuning, steps)
    values = []
    for _ in range(steps):
        values.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    return values


def test_matrices_decay_and_vectors_do_not() -> None:
    given = parameters()
    optimizer = partial(torch.optim.AdamW, betas=(0.8, 0.95))
    tuning = Tuning(learning_rate=3e-4, weight_decay=0.1, optimizer=optimizer)
    decayed, plain = build_optimiser(given.values(), tuning).param_groups
    assert [id(p) for p in decayed["params"]] == [id(given["matrix"]), id(given["stack"])]
    assert [id(p) for p in plain["params"]] == [id(given["vector"])]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(group["lr"] == 3e-4 and group["betas"] == (0.8, 0.95) for group in (decayed, plain))


def test_one_decayed_step_by_hand() -> None:
    matrix, vector = nn.Parameter(torch.full((1, 1), 2.0)), nn.Parameter(torch.full((1,), 2.0))
    optimiser = build_optimiser([matrix, vector], Tuning(learning_rate=0.1, weight_decay=0.5))
    matrix.grad, vector.grad = torch.full((1, 1), 4.0), torch.full((1,), 4.0)
    optimiser.step()
    # Adam's first step has length lr; decay first scales the matrix by 1 - lr * decay.
    assert matrix.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, abs=1e-6)
    assert vector.item() == pytest.approx(2.0 - 0.1, abs=1e-6)


def test_an_empty_group_is_left_out() -> None:
    groups = build_optimiser([nn.Parameter(torch.ones(2, 2))], Tuning()).param_groups
    assert len(groups) == 1


@pytest.mark.parametrize("given", [[], [nn.Parameter(torch.ones(2), requires_grad=False)]], ids=["none", "all frozen"])
def test_nothing_to_train(given: list[nn.Parameter]) -> None:
    with pytest.raises(ValueError, match=r"Nothing to train.*adapter\.target_modules"):
        build_optimiser(given, Tuning())


def test_warm_up_then_cosine_to_zero() -> None:
    found = rates(Tuning(learning_rate=2.0, warmup=0.2), 10)
    ramp = [0.0, 1.0]
    cosine = [2.0 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert found == pytest.approx(ramp + cosine)
    assert found[2] == 2.0
    assert found[6] == pytest.approx(1.0)  # half way down


def test_warm_up_then_linear_to_zero() -> None:
    found = rates(Tuning(learning_rate=2.0, warmup=0.2, schedule="linear"), 10)
    assert found == pytest.approx([0.0, 1.0] + [2.0 * (1 - step / 8) for step in range(8)])


def test_warm_up_then_constant() -> None:
    assert rates(Tuning(learning_rate=2.0, warmup=0.4, schedule="constant"), 5) == pytest.approx([0, 1, 2, 2, 2])


def test_no_warm_up_starts_at_the_peak() -> None:
    assert rates(Tuning(learning_rate=2.0, warmup=0.0, schedule="constant"), 3) == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0 must lie in"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be finite and lie in"),
        ({"warmup": 1.0}, r"warmup=1.0 must lie in \[0, 1\) \(a share of the steps\)"),
        ({"warmup": -0.1}, "warmup=-0.1"),
        ({"schedule": "step"}, "schedule='step' must be one of cosine, linear, constant"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tuning(**wrong)  # type: ignore[arg-type]


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"learning_rate=-1.*; warmup=2.*; schedule='x'"):
        Tuning(learning_rate=-1, warmup=2, schedule="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "kind", "settings"),
    [
        ("adamw", "AdamW", {"betas": (0.9, 0.999)}),
        ("sgd", "SGD", {"momentum": 0.9}),
        pytest.param("adamw_8bit", "AdamW8bit", {"betas": (0.9, 0.999)}, marks=RunIf(bitsandbytes=True)),
    ],
)
def test_the_optimiser_comes_from_the_config(option: str, kind: str, settings: dict[str, object]) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=["run_dir=/tmp/run", f"optimizer={option}", "tuning.learning_rate=0.5"])
    optimiser = build_optimiser([nn.Parameter(torch.ones(2, 2))], instantiate(cfg.tuning, _convert_="all"))
    (group,) = optimiser.param_groups
    assert type(optimiser).__name__ == kind and group["lr"] == 0.5
    for name, value in settings.items():
        assert (tuple(group[name]) if isinstance(value, tuple) else group[name]) == value
