"""Concordance correlation against its definition."""

import math

import pytest
import torch

from mosear.fusion.ccc import ccc, ccc_loss


def literal(x: list[float], y: list[float]) -> float:
    n = len(x)
    mx, my = sum(x) / n, sum(y) / n
    sx = math.sqrt(sum((v - mx) ** 2 for v in x) / n)
    sy = math.sqrt(sum((v - my) ** 2 for v in y) / n)
    r = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / n / (sx * sy)
    return 2 * r * sx * sy / (sx**2 + sy**2 + (mx - my) ** 2)


def test_it_is_the_definition_over_all_clips_together() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 5, 2, generator=generator)
    mask = torch.rand(3, 5, 2, generator=generator) > 0.3
    y = torch.where(mask, y, torch.full_like(y, float("nan")))
    expected = [literal(x[..., d][mask[..., d]].tolist(), y[..., d][mask[..., d]].tolist()) for d in range(2)]
    torch.testing.assert_close(ccc(x, y, mask), torch.tensor(expected))
    assert ccc_loss(x, y, mask).item() == pytest.approx(2 - sum(expected), rel=1e-5)
    half = x.bfloat16()
    torch.testing.assert_close(ccc(half, y, mask), ccc(half.float(), y, mask))
    whole = mask.all(-1)
    one = [literal(x[..., d][whole].tolist(), y[..., d][whole].tolist()) for d in range(2)]
    torch.testing.assert_close(ccc(x, y, whole), torch.tensor(one))


def test_equal_opposite_and_constant() -> None:
    y = torch.tensor([[[0.1], [0.5], [-0.3]]])
    everything = torch.ones(1, 3, dtype=torch.bool)
    assert ccc(y, y, everything).item() == pytest.approx(1.0)
    assert ccc(y.mean() * 2 - y, y, everything).item() == pytest.approx(-1.0)
    assert ccc(torch.zeros_like(y), y, everything).item() == 0.0
    assert ccc(torch.zeros_like(y), torch.zeros_like(y), everything).item() == 0.0


def test_gradients_are_finite_and_stay_inside_the_mask() -> None:
    x = torch.zeros(2, 4, 2, requires_grad=True)
    y = torch.full((2, 4, 2), float("nan"))
    y[0, :3, 0] = torch.tensor([0.1, 0.4, -0.2])
    loss = ccc_loss(x, y, y.isfinite())
    assert loss.item() == pytest.approx(1.0)  # arousal has no value
    loss.backward()
    assert x.grad.isfinite().all() and x.grad[0, :3, 0].any()
    assert not x.grad[1].any() and not x.grad[..., 1].any() and not x.grad[0, 3].any()
    for _ in range(300):
        grown = x.detach().requires_grad_()
        ccc_loss(grown, y, y.isfinite()).backward()
        x = grown - 0.1 * grown.grad
    assert ccc_loss(x, y, y.isfinite()).item() < 0.01


def test_nothing_annotated_is_no_loss() -> None:
    x = torch.ones(1, 2, 2, requires_grad=True)
    loss = ccc_loss(x, torch.full((1, 2, 2), float("nan")), torch.zeros(1, 2, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0 and not x.grad.any()
