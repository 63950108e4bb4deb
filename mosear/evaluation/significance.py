"""Significance of differences between systems that answered the same clips.

Legend: ``B`` replicates, ``S`` seeds, ``N`` clips. A system's correctness is ``{base: {subset: [S, N]}}``; clip n is
the same clip for every system, base and seed.

* **Exact test.** Per clip, the two systems' mean correctness is compared. Among the ``n`` clips on which it differs,
  ``k`` are won by the less successful side; under the null hypothesis ``k ~ Binomial(n, 1/2)``, so::

      p = min(1, 2 P(K <= k))

  With one run on each side this is McNemar's test in its exact form; with several it is the sign test over clips, which
  takes the runs as they are and says nothing about runs with other seeds.
* **Paired bootstrap.** All systems are resampled together (:class:`Resampled`): clips, and seeds within bases. With
  ``B`` replicates ``d_b`` of a difference::

      p = min(1, 2 (1 + min(#{d_b <= 0}, #{d_b >= 0})) / (B + 1))

  which is below 0.05 where the 95 % percentile interval leaves out 0. The smallest possible value is ``2 / (B + 1)``.
* **Holm's correction** for a family of ``m`` tests: with p-values in rising order, ``p'_i = max over j <= i of
  min(1, (m - j + 1) p_j)``. Rejecting where ``p' < 0.05`` keeps the chance of any false rejection below 5 %, whatever
  the dependence between the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mosear.evaluation.bootstrap import FloatArray, Interval, Statistic

Hits = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""``{base: {subset: [S, N]}}``."""

_TIE = 1e-9
_CHUNK_ELEMENTS = 4_000_000


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


class Resampled:
    """Replicates of every system's accuracies under one resampling, so that any two of them can be compared.

    As in :mod:`mosear.evaluation.bootstrap`: one draw of clips for all runs, seeds drawn within each system and base,
    bases fixed. Clips that all runs answered alike are exchangeable, so it is their number that is drawn.

    Args:
        systems: ``{system: {base: {subset: [S, N]}}}``, all with the same subsets and clips.
        n_boot: number of replicates.
        seed: of the resampling.
    """

    def __init__(self, systems: Mapping[str, Hits], *, n_boot: int = 10_000, seed: int = 0) -> None:
        if n_boot < 1:
            raise ValueError(f"n_boot={n_boot} must be at least 1; 10000 resolves p-values down to 0.0002.")
        rng = np.random.default_rng(seed)
        keys = [(name, base) for name, bases in systems.items() for base in bases]
        self._runs = {key: {s: np.asarray(v, float) for s, v in systems[key[0]][key[1]].items()} for key in keys}
        self._means: dict[tuple[str, str], dict[str, FloatArray]] = {key: {} for key in keys}
        for subset in self._runs[keys[0]]:
            arrays = [self._runs[key][subset] for key in keys]
            drawn = _drawn_means(np.concatenate(arrays), n_boot, rng)
            parts = np.split(drawn, np.cumsum([len(array) for array in arrays])[:-1], axis=1)
            for key, part in zip(keys, parts, strict=True):
                self._means[key][subset] = part
        self._weights: dict[tuple[str, str], FloatArray] = {}
        for key in keys:
            seeds = len(next(iter(self._runs[key].values())))
            self._weights[key] = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=n_boot) / seeds

    def bases(self, name: str) -> list[str]:
        """The bases of a system."""
        return [base for system, base in self._runs if system == name]

    def replicates(
        self, name: str, subsets: Sequence[str], statistic: Statistic | None = None, bases: Sequence[str] = ()
    ) -> tuple[float, FloatArray]:
        """A number on the data, and its ``[B]`` replicates.

        Args:
            name: of the system.
            subsets: what the number is about.
            statistic: combines the means of several subsets, as in :mod:`mosear.evaluation.bootstrap`; with one subset,
                ``None`` is its mean.
            bases: average over these; all of the system's if empty.
        """
        combine: Statistic = statistic or (lambda means: means[subsets[0]])
        points, drawn = [], []
        for base in bases or self.bases(name):
            key = (name, base)
            points.append(combine({s: self._runs[key][s].mean(axis=1) for s in subsets}).mean())
            values = combine({s: self._means[key][s] for s in subsets})
            drawn.append((values * self._weights[key]).sum(axis=1))
        return float(np.mean(points)), np.mean(drawn, axis=0)

    def interval(self, name: str, subsets: Sequence[str], statistic: Statistic | None = None) -> Interval:
        """A number with its 95 % interval; arguments as in :meth:`replicates`."""
        return percentile_interval(*self.replicates(name, subsets, statistic))

    def difference(
        self, first: str, second: str, subsets: Sequence[str], statistic: Statistic | None = None
    ) -> tuple[Interval, float] | None:
        """First minus second on the bases that both have: interval and p-value; ``None`` if they share no base."""
        shared = [base for base in self.bases(first) if base in self.bases(second)]
        if not shared:
            return None
        (a, drawn_a), (b, drawn_b) = (self.replicates(name, subsets, statistic, shared) for name in (first, second))
        return percentile_interval(a - b, drawn_a - drawn_b), bootstrap_p(drawn_a - drawn_b)

    def per_clip(self, name: str, subset: str, bases: Sequence[str]) -> FloatArray:
        """``[N]`` correctness per clip: the mean over seeds, then over bases."""
        means: FloatArray = np.mean([self._runs[name, base][subset].mean(axis=0) for base in bases], axis=0)
        return means


def percentile_interval(point: float, replicates: FloatArray) -> Interval:
    """The 95 % percentile interval around a point estimate."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return Interval(point, float(low), float(high))


def _drawn_means(runs: FloatArray, n_boot: int, rng: np.random.Generator) -> FloatArray:
    """``[B, R]`` means over drawn clips of ``[R, N]`` correctness, with one draw for all runs."""
    clips = runs.shape[1]
    patterns, counts = np.unique(runs, axis=1, return_counts=True)
    means = np.empty((n_boot, len(runs)))
    chunk = max(1, _CHUNK_ELEMENTS // len(counts))
    for start in range(0, n_boot, chunk):
        stop = min(start + chunk, n_boot)
        means[start:stop] = rng.multinomial(clips, counts / clips, size=stop - start) @ patterns.T / clips
    return means
