"""Numbers of a comparison: accuracies with intervals, tested differences from a reference, calibration error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mosear.evaluation.bootstrap import Interval, Resampled, Statistic
from mosear.evaluation.compare.collect import CONTROLS, ZERO_SHOT, Benchmark, System
from mosear.evaluation.kinds import Number
from mosear.evaluation.significance import ExactTest, exact_test, holm
from mosear.evaluation.summary import CONFLICT_MEAN, CONFLICT_STATISTICS, CONFLICT_SUBSETS, GAP

LEVEL = 0.05
BINS = 10


def questions(benchmark: Benchmark) -> dict[str, tuple[tuple[str, ...], Statistic | None]]:
    """What is asked of every system: ``{key: (subsets, statistic)}``, each subset, then conflict mean and gap."""
    asked: dict[str, tuple[tuple[str, ...], Statistic | None]] = {key: ((key,), None) for key in benchmark.subsets}
    if all(subset in benchmark.subsets for subset in CONFLICT_SUBSETS):
        asked |= {key: (CONFLICT_SUBSETS, statistic) for key, statistic in CONFLICT_STATISTICS.items()}
    return asked


def resample(benchmark: Benchmark, *, n_boot: int, seed: int = 0) -> Resampled:
    """All systems of a benchmark under one resampling."""
    return Resampled({name: system.arrays() for name, system in benchmark.systems.items()}, n_boot=n_boot, seed=seed)


def accuracies(benchmark: Benchmark, resampled: Resampled) -> dict[str, dict[str, Interval]]:
    """``{system: {key: interval}}`` for the keys of :func:`questions`; a control has no gap."""
    asked = questions(benchmark)
    return {
        name: {
            key: resampled.interval(name, subsets, statistic)
            for key, (subsets, statistic) in asked.items()
            if not (system.control and key == GAP)
        }
        for name, system in benchmark.systems.items()
    }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One system minus the reference, on one question.

    Attributes:
        system: name.
        key: the question, see :func:`questions`.
        interval: the difference.
        bootstrap_p: of the paired bootstrap.
        exact: of the exact test; ``None`` where the question is not about one subset.
        bootstrap_holm: ``bootstrap_p`` corrected for its family.
        exact_holm: ``exact.p`` corrected for its family.
    """

    system: str
    key: str
    interval: Interval
    bootstrap_p: float
    exact: ExactTest | None = None
    bootstrap_holm: float = math.nan
    exact_holm: float | None = None

    @property
    def clear(self) -> bool:
        """Whether every test made stays below 0.05 after correction."""
        return self.bootstrap_holm < LEVEL and (self.exact_holm is None or self.exact_holm < LEVEL)

    @property
    def gain(self) -> int:
        """1 better, -1 worse, 0 not clear; of the gap, less is better."""
        if not self.clear or not self.interval.mean:
            return 0
        return 1 if (self.interval.mean > 0) != (self.key == GAP) else -1


def choose_reference(benchmark: Benchmark, wanted: str | None) -> str:
    """The system that the others are compared with: the one asked for, else the bare backbone, else the first.

    Raises:
        ValueError: if there is no system of that name.
    """
    if wanted is None:
        return ZERO_SHOT if ZERO_SHOT in benchmark.systems else next(iter(benchmark.systems))
    if wanted not in benchmark.systems:
        raise ValueError(
            f"--reference-system {wanted!r} is not among the systems on {benchmark.name}: "
            f"{', '.join(benchmark.systems)}."
        )
    return wanted


def differences(benchmark: Benchmark, resampled: Resampled, reference: str) -> list[Difference]:
    """Every system (no control) minus the reference, on every question; not yet corrected.

    Systems that share no backbone with the reference are left out.
    """
    found = []
    for name, system in benchmark.systems.items():
        shared = [base for base in resampled.bases(name) if base in resampled.bases(reference)]
        if system.control or name == reference or not shared:
            continue
        for key, (subsets, statistic) in questions(benchmark).items():
            tested = resampled.difference(name, reference, subsets, statistic)
            assert tested is not None
            exact = None
            if statistic is None:
                exact = exact_test(*(resampled.per_clip(side, key, shared) for side in (name, reference)))
            found.append(Difference(system=name, key=key, interval=tested[0], bootstrap_p=tested[1], exact=exact))
    return found


def against_controls(benchmark: Benchmark, resampled: Resampled) -> dict[str, tuple[str, Interval]]:
    """Per system its strongest control on conflicts, or else on the first question, and system minus control.

    A system without unimodal readings is left out. The intervals are not corrected for their number.
    """
    asked = questions(benchmark)
    key = CONFLICT_MEAN if CONFLICT_MEAN in asked else next(iter(asked))
    found: dict[str, tuple[str, Interval]] = {}
    for name, system in benchmark.systems.items():
        own = {
            control: f"{name}, {title}"
            for control, title in CONTROLS.items()
            if not system.control and f"{name}, {title}" in benchmark.systems
        }
        if own:
            best = max(own, key=lambda control: resampled.replicates(own[control], *asked[key])[0])
            tested = resampled.difference(name, own[best], *asked[key])
            if tested is not None:
                found[name] = (best, tested[0])
    return found


def corrected(family: Sequence[Difference]) -> list[Difference]:
    """The same differences with Holm's correction, for each of the two tests over all that it was made for."""
    exact = [(i, entry.exact.p) for i, entry in enumerate(family) if entry.exact is not None]
    adjusted = dict(zip((i for i, _ in exact), holm([p for _, p in exact]), strict=True))
    return [
        replace(entry, bootstrap_holm=p, exact_holm=adjusted.get(i))
        for i, (entry, p) in enumerate(zip(family, holm([entry.bootstrap_p for entry in family]), strict=True))
    ]


@dataclass(frozen=True)
class Bin:
    """Answers of similar confidence.

    Attributes:
        low: smallest confidence of the bin.
        high: largest.
        n: answers in it.
        confidence: their mean confidence, NaN if empty.
        accuracy: share of them that is right, NaN if empty.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS) -> list[Bin]:
    """Equal bins of [0, 1]; a confidence on an edge belongs to the bin above it, 1 to the last.

    Args:
        confidence: ``[N]`` probability that was given to the answer.
        correct: ``[N]`` 1 or 0.
        bins: how many.
    """
    p, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    place = np.minimum((p * bins).astype(int), bins - 1)
    found = []
    for i in range(bins):
        own = place == i
        means = (float(p[own].mean()), float(hits[own].mean())) if own.any() else (math.nan, math.nan)
        found.append(Bin(i / bins, (i + 1) / bins, int(own.sum()), *means))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: ``sum over bins of n / N |accuracy - confidence|``; NaN without answers."""
    total = sum(entry.n for entry in bins)
    if not total:
        return math.nan
    return sum(entry.n * abs(entry.accuracy - entry.confidence) for entry in bins if entry.n) / total


def confidences(system: System, subset: str | None = None) -> tuple[list[float], list[bool]]:
    """Confidence and correctness of a system's answers, over its runs; answers without probabilities are left out.

    A set of labels has no confidence of its own, so there are none where sets are predicted.
    """
    found = [
        (row.distribution[run.labels.index(row.prediction)], row.correct)
        for run in system.runs
        for row in run.rows.values()
        if row.distribution is not None
        and row.prediction in run.labels
        and row.labels is None
        and subset in (None, row.subset)
    ]
    return [p for p, _ in found], [hit for _, hit in found]


def own_numbers(benchmark: Benchmark, numbers: Sequence[Number]) -> list[tuple[str, Number, dict[str, float | None]]]:
    """``(subset, number, {system: mean over its runs})`` of numbers beside the accuracy; controls have none.

    Runs on several backbones count by backbone: seeds are averaged first. ``None`` where a run does not define it.
    """
    found = []
    for subset in benchmark.subsets:
        for number in numbers:
            means = {
                name: _mean_over_runs(system, subset, number.key)
                for name, system in benchmark.systems.items()
                if not system.control
            }
            found.append((subset, number, means))
    return found


def _mean_over_runs(system: System, subset: str, key: str) -> float | None:
    by_base: dict[str, list[float | None]] = {}
    for run in system.runs:
        by_base.setdefault(run.base, []).append(run.scores.get("subsets", {}).get(subset, {}).get(key))
    values = [value for own in by_base.values() for value in own]
    if any(value is None for value in values):
        return None
    return float(np.mean([np.mean(np.array(own, dtype=float)) for own in by_base.values()]))


def answered_right(system: System) -> Mapping[str, float]:
    """``{clip id: share of the system's runs that are right}``."""
    return {name: sum(run.rows[name].correct for run in system.runs) / len(system.runs) for name in system.runs[0].rows}
