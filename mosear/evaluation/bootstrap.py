"""95 % bootstrap intervals for accuracies of a hierarchy base -> seed -> clip.

Legend: ``S`` seeds (training runs), ``N`` clips, ``B`` bootstrap replicates. One system's correctness on one subset is
``X [S, N]`` (or ``[N]`` for a single run), with the same clips for every seed.

In each replicate the clips are drawn with replacement, the same draw for every seed (they are the same clips), and
the seeds are drawn with replacement within their base. Bases (backbones) are a choice and not a sample, so they stay
fixed. With clip counts ``v ~ Multinomial(N, 1/N)`` and seed counts ``w ~ Multinomial(S, 1/S)`` the replicate of a
mean is

    w^T X v / (S N)

Systems that are compared see the same drawn clips: :class:`Resampled`, of which every function here is a use.

A *statistic* turns the per-run means of several subsets into one number per run. It is evaluated run by run, then
averaged over seeds, then over bases, so that the point estimate equals the average of the numbers in the runs'
``metrics.json``.

Intervals are percentile intervals. Known limits: with few seeds (S < 5) the spread over seeds is underestimated by
about (S - 1) / S in variance; noise that is independent for every (seed, clip) is counted more than once
(conservative); and a subset answered wholly right or wholly wrong gets an interval of width zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mosear.evaluation import metrics
from mosear.evaluation.significance import bootstrap_p

FloatArray = npt.NDArray[np.float64]
Correctness = npt.ArrayLike | Mapping[str, npt.ArrayLike]
Statistic = Callable[[Mapping[str, FloatArray]], FloatArray]

_ALL = "all"
_CHUNK_ELEMENTS = 2_000_000  # 16 MB of float64 clip counts at a time


class Interval(NamedTuple):
    """A point estimate (on the data, not on the replicates) and its interval."""

    mean: float
    low: float
    high: float


def conflict_mean_statistic(means: Mapping[str, FloatArray]) -> FloatArray:
    """Conflict mean from per-subset means, see :func:`mosear.evaluation.metrics.conflict_mean`."""
    return metrics.conflict_mean(means[metrics.VIDEO_ALIGNED], means[metrics.AUDIO_ALIGNED])


def gap_statistic(means: Mapping[str, FloatArray]) -> FloatArray:
    """Gap from per-subset means, see :func:`mosear.evaluation.metrics.gap`."""
    return metrics.gap(means[metrics.VIDEO_ALIGNED], means[metrics.AUDIO_ALIGNED])


def bootstrap_interval(
    correct: Correctness,
    statistic: Statistic | None = None,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of one system on one base.

    Args:
        correct: ``[S, N]`` or ``[N]`` correctness, or ``{subset: array}`` for a statistic over several subsets.
        statistic: maps ``{subset: means}`` to values, elementwise; the mean if None (one subset only).
        n_boot: number of replicates.
        seed: seed of the resampling; equal arguments give equal intervals.
        level: coverage of the interval.
    """
    return nested_bootstrap({"": correct}, statistic, n_boot=n_boot, seed=seed, level=level)


def nested_bootstrap(
    correct: Mapping[str, Correctness],
    statistic: Statistic | None = None,
    *,
    shared_clips: bool = False,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of the equally weighted average over bases; seeds and clips are resampled within each base.

    Args:
        correct: ``{base: [S, N]}``, or ``{base: {subset: [S, N]}}``.
        statistic: see :func:`bootstrap_interval`.
        shared_clips: draw the same clips in every base. Set it when the bases were evaluated on one and the same test
            set: otherwise its clips count as independent samples and the interval is too narrow.
        n_boot: see :func:`bootstrap_interval`.
        seed: see :func:`bootstrap_interval`.
        level: see :func:`bootstrap_interval`.
    """
    resampled = Resampled({"": correct}, shared_clips=shared_clips, n_boot=n_boot, seed=seed)
    return resampled.interval("", statistic=statistic, level=level)


def paired_difference(
    a: Correctness,
    b: Correctness,
    statistic: Statistic | None = None,
    *,
    pair_seeds: bool = False,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of ``statistic(a) - statistic(b)`` for two systems on the same clips, which are resampled together.

    Args:
        a: ``[S_a, N]`` or ``[N]``, or ``{subset: array}``.
        b: ``[S_b, N]`` or ``[N]``, or ``{subset: array}``; clip n is the clip n of ``a``.
        statistic: see :func:`bootstrap_interval`.
        pair_seeds: resample the seeds of both together. Right when run s of ``b`` is run s of ``a`` with one change
            (say, steering on and off); separate training runs are resampled on their own.
        n_boot: see :func:`bootstrap_interval`.
        seed: see :func:`bootstrap_interval`.
        level: see :func:`bootstrap_interval`.
    """
    return nested_paired_difference(
        {"": a}, {"": b}, statistic, pair_seeds=pair_seeds, n_boot=n_boot, seed=seed, level=level
    )


def nested_paired_difference(
    a: Mapping[str, Correctness],
    b: Mapping[str, Correctness],
    statistic: Statistic | None = None,
    *,
    pair_seeds: bool = False,
    shared_clips: bool = False,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """:func:`paired_difference` averaged over bases: within a base both systems see the same drawn clips.

    Arguments as in :func:`paired_difference` and :func:`nested_bootstrap`; ``a`` and ``b`` have the same bases.
    """
    if set(a) != set(b):
        raise ValueError(f"a and b must have the same bases, got {sorted(a)} and {sorted(b)}.")
    systems = {"a": a, "b": {base: b[base] for base in a}}
    resampled = Resampled(systems, shared_clips=shared_clips, pair_seeds=pair_seeds, n_boot=n_boot, seed=seed)
    tested = resampled.difference("a", "b", statistic=statistic, level=level)
    assert tested is not None
    return tested[0]


def drawn_sums(
    columns: FloatArray, groups: Sequence[str] | None = None, *, n_boot: int = 2000, seed: int = 0
) -> FloatArray:
    """``[B, K]`` sums over drawn clips of ``columns [N, K]``.

    Args:
        columns: one row per clip.
        groups: of each clip (its speaker); then whole groups are drawn, with all their clips. None = clips are drawn.
        n_boot: number of replicates.
        seed: of the resampling.
    """
    if n_boot < 1:
        raise ValueError(f"n_boot={n_boot} must be at least 1.")
    units = columns
    if groups is not None:
        names, places = np.unique(np.asarray(groups), return_inverse=True)
        units = np.zeros((len(names), columns.shape[1]))
        np.add.at(units, places, columns)
    rng, size = np.random.default_rng(seed), len(units)
    chunk = max(1, _CHUNK_ELEMENTS // size)
    sizes = [min(chunk, n_boot - start) for start in range(0, n_boot, chunk)]
    return np.concatenate([_draw_counts(size, draws, rng) @ units for draws in sizes])


class Resampled:
    """Replicates of every system's accuracies under one resampling, so that any two of them can be compared.

    Args:
        systems: ``{system: {base: [S, N]}}``, or ``{system: {base: {subset: [S, N]}}}``; clip n is the same clip for
            every system.
        n_boot: number of replicates.
        seed: of the resampling.
        shared_clips: draw the same clips in every base; else every base has clips of its own.
        pair_seeds: draw the same seeds for all systems of a base; else every system has seeds of its own.
    """

    def __init__(
        self,
        systems: Mapping[str, Mapping[str, Correctness]],
        *,
        n_boot: int = 10_000,
        seed: int = 0,
        shared_clips: bool = True,
        pair_seeds: bool = False,
    ) -> None:
        if n_boot < 1:
            raise ValueError(f"n_boot={n_boot} must be at least 1; 10000 resolves p-values down to 0.0002.")
        rng = np.random.default_rng(seed)
        self._runs = {
            (name, base): _as_runs(base, correct) for name, bases in systems.items() for base, correct in bases.items()
        }
        self._means: dict[tuple[str, str], dict[str, FloatArray]] = {}
        for group in [list(self._runs)] if shared_clips else self._by_base():
            self._means |= zip(group, _drawn_means([self._runs[key] for key in group], n_boot, rng), strict=True)
        self._weights: dict[tuple[str, str], FloatArray] = {}
        for group in self._by_base() if pair_seeds else [[key] for key in self._runs]:
            seeds = [len(next(iter(self._runs[key].values()))) for key in group]
            if len(set(seeds)) > 1:
                raise ValueError(f"pair_seeds needs as many seeds in a as in b, got {' and '.join(map(str, seeds))}.")
            self._weights |= dict.fromkeys(group, _draw_counts(seeds[0], n_boot, rng) / seeds[0])

    def _by_base(self) -> list[list[tuple[str, str]]]:
        bases = dict.fromkeys(base for _, base in self._runs)
        return [[key for key in self._runs if key[1] == base] for base in bases]

    def bases(self, name: str) -> list[str]:
        """The bases of a system."""
        return [base for system, base in self._runs if system == name]

    def replicates(
        self, name: str, subsets: Sequence[str] = (), statistic: Statistic | None = None, bases: Sequence[str] = ()
    ) -> tuple[float, FloatArray]:
        """A number on the data, and its ``[B]`` replicates.

        Args:
            name: of the system.
            subsets: what the number is about; all of them if empty.
            statistic: see :func:`bootstrap_interval`.
            bases: average over these; all of the system's if empty.
        """
        points, drawn = [], []
        for key in [(name, base) for base in bases or self.bases(name)]:
            asked = subsets or tuple(self._runs[key])
            if statistic is None and len(asked) != 1:
                raise ValueError(f"several subsets {sorted(asked)} need a statistic that combines their means.")
            combine: Statistic = statistic or (lambda means: next(iter(means.values())))
            points.append(combine({subset: self._runs[key][subset].mean(axis=1) for subset in asked}).mean())
            values = combine({subset: self._means[key][subset] for subset in asked})
            drawn.append((values * self._weights[key]).sum(axis=1))
        return float(np.mean(points)), np.mean(drawn, axis=0)

    def interval(
        self, name: str, subsets: Sequence[str] = (), statistic: Statistic | None = None, *, level: float = 0.95
    ) -> Interval:
        """A number with its interval; arguments as in :meth:`replicates` and :func:`bootstrap_interval`."""
        return _interval(*self.replicates(name, subsets, statistic), level)

    def difference(
        self,
        first: str,
        second: str,
        subsets: Sequence[str] = (),
        statistic: Statistic | None = None,
        *,
        level: float = 0.95,
    ) -> tuple[Interval, float] | None:
        """First minus second on the bases that both have: interval and p-value; ``None`` if they share no base."""
        shared = [base for base in self.bases(first) if base in self.bases(second)]
        if not shared:
            return None
        (a, drawn_a), (b, drawn_b) = (self.replicates(name, subsets, statistic, shared) for name in (first, second))
        return _interval(a - b, drawn_a - drawn_b, level), bootstrap_p(drawn_a - drawn_b)

    def per_clip(self, name: str, subset: str, bases: Sequence[str]) -> FloatArray:
        """``[N]`` correctness per clip: the mean over seeds, then over bases."""
        means: FloatArray = np.mean([self._runs[name, base][subset].mean(axis=0) for base in bases], axis=0)
        return means


def _as_runs(base: str, correct: Correctness) -> dict[str, FloatArray]:
    """``{subset: [S, N]}`` in float64, checked."""
    where = f" of base {base!r}" if base else ""
    subsets = correct if isinstance(correct, Mapping) else {_ALL: correct}
    system = {name: np.atleast_2d(np.asarray(values, dtype=np.float64)) for name, values in subsets.items()}
    for name, array in system.items():
        if array.ndim != 2 or not array.size:
            raise ValueError(f"correctness of {name!r}{where} must be [S, N] or [N] and not empty, got {array.shape}.")
        if not np.isfinite(array).all():
            raise ValueError(f"correctness of {name!r}{where} contains NaN or infinity; count an unparsed answer as 0.")
    if len({len(array) for array in system.values()}) > 1:
        seeds = {name: len(array) for name, array in system.items()}
        raise ValueError(f"every subset{where} needs the same seeds, got {seeds}.")
    return system


def _drawn_means(
    runs: Sequence[Mapping[str, FloatArray]], n_boot: int, rng: np.random.Generator
) -> list[dict[str, FloatArray]]:
    """``{subset: [B, S]}`` means over drawn clips of every ``{subset: [S, N]}``, with one draw for all of them."""
    clips = [{subset: array.shape[1] for subset, array in system.items()} for system in runs]
    if any(counts != clips[0] for counts in clips):
        raise ValueError(f"paired systems need the same subsets and clips, got clip counts {clips}.")
    drawn = {subset: _clip_resampling([system[subset] for system in runs], n_boot, rng) for subset in runs[0]}
    return [{subset: means[i] for subset, means in drawn.items()} for i in range(len(runs))]


def _clip_resampling(arrays: Sequence[FloatArray], n_boot: int, rng: np.random.Generator) -> list[FloatArray]:
    """``[B, S]`` means over drawn clips for each ``[S, N]`` array, with one draw for all arrays."""
    clips = arrays[0].shape[1]
    stacked = np.concatenate(arrays).T
    means = np.empty((n_boot, stacked.shape[1]))
    chunk = max(1, _CHUNK_ELEMENTS // clips)
    for start in range(0, n_boot, chunk):
        stop = min(start + chunk, n_boot)
        means[start:stop] = _draw_counts(clips, stop - start, rng) @ stacked / clips
    return np.split(means, np.cumsum([len(array) for array in arrays])[:-1], axis=1)


def _draw_counts(size: int, draws: int, rng: np.random.Generator) -> FloatArray:
    """``[draws, size]`` counts of sampling ``size`` items with replacement.

    Counting gathered indices is several times faster than ``rng.multinomial``, which draws one binomial per item.
    """
    indices = rng.integers(0, size, size=(draws, size)) + np.arange(draws)[:, None] * size
    return np.bincount(indices.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)


def _interval(point: float, replicates: FloatArray, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}.")
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(point, float(low), float(high))
