"""Significance of differences between systems that answered the same clips.

Legend: ``B`` replicates, ``S`` seeds, ``N`` clips. A system's correctness is ``{base: {subset: [S, N]}}``; clip n is
the same clip for every system, base and seed.

* **Exact test.** Per clip, the two systems' mean correctness is compared. Among the ``n`` clips on which it differs,
  ``k`` are won by the less successful side; under the null hypothesis ``k ~ Binomial(n, 1/2)``, so::

      p = min(1, 2 P(K <= k))

  With one run on each side this is McNemar's test in its exact form; with several it is the sign test over clips, which
  takes the runs as they are and says nothing about runs with other seeds.
* **Paired bootstrap.** All systems are resampled together, clips and seeds within bases
  (:class:`mosear.evaluation.bootstrap.Resampled`). With ``B`` replicates ``d_b`` of a difference::

      p = min(1, 2 (1 + min(#{d_b <= 0}, #{d_b >= 0})) / (B + 1))

  which is below 0.05 where the 95 % percentile interval leaves out 0. The smallest possible value is ``2 / (B + 1)``.
* **Holm's correction** for a family of ``m`` tests: with p-values in rising order, ``p'_i = max over j <= i of
  min(1, (m - j + 1) p_j)``. Rejecting where ``p' < 0.05`` keeps the chance of any false rejection below 5 %, whatever
  the dependence between the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_TIE = 1e-9


class ExactTest(NamedTuple):
    """Clips on which one side did better, and the two-sided p-value."""

    first_better: int
    second_better: int
    p: float


def exact_test(first: npt.ArrayLike, second: npt.ArrayLike) -> ExactTest:
    """The exact test of the module's text.

    Args:
        first: ``[N]`` correctness in [0, 1], a mean over runs where there are several.
        second: ``[N]``.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a paired test needs two [N] arrays over the same clips, got {a.shape} and {b.shape}.")
    wins, losses = int((a - b > _TIE).sum()), int((b - a > _TIE).sum())
    return ExactTest(wins, losses, two_sided_binomial(min(wins, losses), wins + losses))


def two_sided_binomial(k: int, n: int) -> float:
    """``min(1, 2 P(K <= k))`` for ``K ~ Binomial(n, 1/2)``, in whole numbers up to the last division."""
    ways, tail = 1, 1
    for i in range(1, k + 1):
        ways = ways * (n - i + 1) // i
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def bootstrap_p(differences: npt.ArrayLike) -> float:
    """Two-sided p-value from ``[B]`` replicates of a difference."""
    values = np.asarray(differences, dtype=np.float64)
    beyond = min((values <= 0).sum(), (values >= 0).sum())
    return min(1.0, float(2 * (1 + beyond) / (len(values) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
