"""Arithmetic on label distributions, against scipy and against the formulas."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from mosear.inference.distributions import jensen_shannon, log_odds

NONE = [math.nan] * 3


def distributions(seed: int, n: int = 200) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(5) * 0.5, n))


def test_jensen_shannon_equals_scipy() -> None:
    p, q = distributions(1), distributions(2)
    expected = [jensenshannon(a, b, base=2) ** 2 for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    np.testing.assert_allclose(jensen_shannon(p, q).numpy(), expected, atol=1e-12)


def test_jensen_shannon_ends_and_shapes() -> None:
    one, other = torch.eye(2, dtype=torch.float64)
    assert jensen_shannon(one, one) == 0.0
    assert jensen_shannon(one, other) == 1.0
    third = torch.full((4, 7, 3), 1 / 3)
    assert jensen_shannon(third, third[0, 0]).shape == (4, 7)
    assert jensen_shannon(torch.tensor([NONE]), torch.tensor([[0.7, 0.2, 0.1]])).isnan().all()


@pytest.mark.parametrize("shift", [0.0, -3.5], ids=["normalised", "not normalised"])
def test_log_odds_by_hand(shift: float) -> None:
    p = distributions(3, n=20)
    labels = torch.arange(20) % 5
    found, own = log_odds(p.log() + shift, labels), log_odds(p.log() + shift)
    for row in range(20):
        said, top = float(p[row, labels[row]]), float(p[row].max())
        assert float(found[row]) == pytest.approx(math.log(said) - math.log(1 - said), rel=1e-6)
        assert float(own[row]) == pytest.approx(math.log(top) - math.log(1 - top), rel=1e-6)


def test_log_odds_keep_batch_shapes() -> None:
    p = distributions(4, n=12)
    assert torch.equal(log_odds(p.log().view(3, 4, 5)), log_odds(p.log()).view(3, 4))
