"""95 % bootstrap intervals for accuracies of a hierarchy base -> seed -> clip.

Legend: ``S`` seeds (training runs), ``N`` clips, ``B`` bootstrap replicates. One system's correctness on one subset is
``X [S, N]`` (or ``[N]`` for a single run), with the same clips for every seed.

In each replicate the clips are drawn with replacement, the same draw for every seed (they are the same clips), and
the seeds are drawn with replacement within their base. Bases (backbones) are a choice and not a sample, so they stay
fixed. With clip counts ``v ~ Multinomial(N, 1/N)`` and seed counts ``w ~ Multinomial(S, 1/S)`` the replicate of a
mean is

    w^T X v / (S N)

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
    systems = [_as_system(base, values) for base, values in correct.items()]
    statistic = statistic or _only_subset(systems)
    rng = np.random.default_rng(seed)
    replicates = [
        _over_seeds(statistic(means), _seed_weights(means, n_boot, rng))
        for means in _resampled_means([systems] if shared_clips else [[system] for system in systems], n_boot, rng)
    ]
    return _interval(_point(systems, statistic), np.mean(replicates, axis=0), level)


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
    firsts = [_as_system(base, a[base]) for base in a]
    seconds = [_as_system(base, b[base]) for base in a]
    statistic = statistic or _only_subset(firsts)
    pairs = [[first, second] for first, second in zip(firsts, seconds, strict=True)]
    rng = np.random.default_rng(seed)
    groups = [[system for pair in pairs for system in pair]] if shared_clips else pairs
    resampled = _resampled_means(groups, n_boot, rng)
    replicates = []
    for means_a, means_b in zip(resampled[::2], resampled[1::2], strict=True):
        weights_a = _seed_weights(means_a, n_boot, rng)
        weights_b = weights_a if pair_seeds else _seed_weights(means_b, n_boot, rng)
        values_a, values_b = statistic(means_a), statistic(means_b)
        if pair_seeds and values_a.shape != values_b.shape:
            raise ValueError(
                f"pair_seeds needs as many seeds in a as in b, got {values_a.shape[1]} and {values_b.shape[1]}."
            )
        replicates.append(_over_seeds(values_a, weights_a) - _over_seeds(values_b, weights_b))
    return _interval(_point(firsts, statistic) - _point(seconds, statistic), np.mean(replicates, axis=0), level)


def _as_system(base: str, correct: Correctness) -> dict[str, FloatArray]:
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


def _only_subset(systems: Sequence[Mapping[str, FloatArray]]) -> Statistic:
    for system in systems:
        if len(system) != 1:
            raise ValueError(f"several subsets {sorted(system)} need a statistic that combines their means.")
    return lambda means: next(iter(means.values()))


def _resampled_means(
    groups: Sequence[Sequence[Mapping[str, FloatArray]]], n_boot: int, rng: np.random.Generator
) -> list[dict[str, FloatArray]]:
    """Per-run means ``{subset: [B, S]}`` of every system, in order; the systems of a group share the drawn clips."""
    resampled: list[dict[str, FloatArray]] = []
    for group in groups:
        means: list[dict[str, FloatArray]] = [{} for _ in group]
        clips = [{name: array.shape[1] for name, array in system.items()} for system in group]
        if any(counts != clips[0] for counts in clips):
            raise ValueError(f"paired systems need the same subsets and clips, got clip counts {clips}.")
        for name in group[0]:
            replicates = _clip_resampling([system[name] for system in group], n_boot, rng)
            for system_means, values in zip(means, replicates, strict=True):
                system_means[name] = values
        resampled.extend(means)
    return resampled


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


def _seed_weights(means: Mapping[str, FloatArray], n_boot: int, rng: np.random.Generator) -> FloatArray:
    """``[B, S]`` weights that sum to 1: one draw for all subsets, since a run is evaluated on all of them."""
    seeds = next(iter(means.values())).shape[1]
    return _draw_counts(seeds, n_boot, rng) / seeds


def _over_seeds(values: FloatArray, weights: FloatArray) -> FloatArray:
    return (values * weights).sum(axis=1)


def _point(systems: Sequence[Mapping[str, FloatArray]], statistic: Statistic) -> float:
    values = [statistic({name: array.mean(axis=1) for name, array in system.items()}).mean() for system in systems]
    return float(np.mean(values))


def _interval(point: float, replicates: FloatArray, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}.")
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(point, float(low), float(high))
