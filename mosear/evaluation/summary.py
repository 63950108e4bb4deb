"""From prediction rows to ``metrics.json`` and to the table that compares zero-shot and tuned."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mosear.evaluation import bootstrap, metrics
from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.kind_intervals import intervals_beside
from mosear.evaluation.kinds import SCORINGS, Scoring, scoring_of
from mosear.evaluation.predictions import PredictionRow, kind_of
from mosear.files import written_atomically
from mosear.inference import late_fusion

if TYPE_CHECKING:
    from rich.table import Table

CONFLICT_SUBSETS = (metrics.VIDEO_ALIGNED, metrics.AUDIO_ALIGNED)
CONFLICT_MEAN, GAP = "conflict_mean", "gap"
CONFLICT_STATISTICS = {CONFLICT_MEAN: bootstrap.conflict_mean_statistic, GAP: bootstrap.gap_statistic}


def by_subset(rows: Sequence[PredictionRow]) -> dict[str, list[PredictionRow]]:
    """Groups rows by subset, in order of first appearance."""
    subsets: dict[str, list[PredictionRow]] = {}
    for row in rows:
        subsets.setdefault(row.subset, []).append(row)
    return subsets


def summarise(
    rows: Sequence[PredictionRow],
    labels: Sequence[str],
    *,
    benchmark: str,
    steering: str,
    seed: int,
    n_boot: int = 2000,
) -> dict[str, Any]:
    """Scores one model's rows: the content of ``metrics.json``.

    Returns:
        ``benchmark``, ``steering``, ``seed``, ``kind``, ``labels``;
        ``subsets``: ``{subset: the numbers of its kind + "interval": [low, high] of the accuracy}``, see
        :data:`mosear.evaluation.kinds.SCORINGS`, and ``intervals`` of the numbers beside it, if there are any;
        ``unparsed`` counts answers without a prediction, ``quarantined`` clips that could not be used, and both count
        as wrong;
        ``conflict_mean``, ``gap`` with ``conflict_mean_interval``, ``gap_interval``: None unless both "video_aligned"
        and "audio_aligned" are there; ``controls``: ``{"late_fusion": {subset: accuracy, ..., "conflict_mean": ..},
        "late_fusion_transcript": {..}}``, each one only where the rows carry the readings it needs, and
        ``control_intervals`` with the same keys; both are empty unless one label per clip is predicted.

    Raises:
        ValueError: if there are no rows, they are of several kinds, or a clip id occurs twice (rows of several models
            mixed).
    """
    if not rows:
        raise ValueError("there are no predictions to summarise; check that the benchmark's manifest is not empty.")
    if len({row.id for row in rows}) < len(rows):
        raise ValueError("a clip id occurs twice; summarise the rows of one model at a time.")
    kind = kind_of(rows)
    groups = by_subset(rows)
    credit = {subset: np.array([row.credit for row in group], dtype=float) for subset, group in groups.items()}
    scored = _score(credit, seed=seed, n_boot=n_boot)
    subsets = {
        subset: _subset(group, labels, SCORINGS[kind]) | {"interval": _bounds(scored[subset])}
        for subset, group in groups.items()
    }
    for subset, group in groups.items():
        if own := intervals_beside(group, labels, n_boot=n_boot, seed=seed):
            subsets[subset]["intervals"] = own
    summary: dict[str, Any] = {
        "benchmark": benchmark,
        "steering": steering,
        "seed": seed,
        "kind": kind,
        "labels": list(labels),
        "subsets": subsets,
    }
    for name in (CONFLICT_MEAN, GAP):
        interval = scored.get(name)
        summary[name] = interval.mean if interval else None
        summary[f"{name}_interval"] = _bounds(interval) if interval else None
    summary["controls"], summary["control_intervals"] = {}, {}
    for control, hits in control_correctness(groups, labels).items():
        intervals = _score(hits, seed=seed, n_boot=n_boot)
        intervals.pop(GAP, None)
        summary["controls"][control] = {name: interval.mean for name, interval in intervals.items()}
        summary["control_intervals"][control] = {name: _bounds(interval) for name, interval in intervals.items()}
    return summary


def _subset(group: Sequence[PredictionRow], labels: Sequence[str], scoring: Scoring) -> dict[str, Any]:
    scores = scoring.score(group, labels)
    quarantined = sum(row.quarantined for row in group)
    return scores | {"unparsed": scores["unparsed"] - quarantined, "quarantined": quarantined}


def _bounds(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _score(credit: Mapping[str, np.ndarray], *, seed: int, n_boot: int) -> dict[str, Interval]:
    """Accuracy with interval per subset, then the conflict mean and the gap where both conflict subsets are there."""
    scored = {name: bootstrap.bootstrap_interval(hits, seed=seed, n_boot=n_boot) for name, hits in credit.items()}
    if all(subset in credit for subset in CONFLICT_SUBSETS):
        conflicts = {subset: credit[subset] for subset in CONFLICT_SUBSETS}
        for name, statistic in CONFLICT_STATISTICS.items():
            scored[name] = bootstrap.bootstrap_interval(conflicts, statistic, seed=seed, n_boot=n_boot)
    return scored


def control_correctness(
    groups: Mapping[str, Sequence[PredictionRow]], labels: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """``{control: {subset: [N] correctness}}`` for every control whose readings the rows carry.

    None where sets, scores or series are predicted: late fusion chooses between labels.
    """

    def stack(group: Sequence[PredictionRow], name: str) -> np.ndarray:
        absent = [math.nan] * len(labels)
        values = [absent if getattr(row, name) is None else list(getattr(row, name)) for row in group]
        return np.array(values, dtype=float).reshape(len(group), len(labels))

    rows = [row for group in groups.values() for row in group]
    if not scoring_of(rows).controls or not any(row.p_visual is not None or row.p_audio is not None for row in rows):
        return {}
    with_text = any(row.p_text is not None for row in rows)
    hits: dict[str, dict[str, np.ndarray]] = {"late_fusion": {}}
    if with_text:
        hits["late_fusion_transcript"] = {}
    for subset, group in groups.items():
        truth = np.array([labels.index(row.label) for row in group])
        visual, audio = stack(group, "p_visual"), stack(group, "p_audio")
        hits["late_fusion"][subset] = (late_fusion.late_fusion(visual, audio) == truth).astype(float)
        if with_text:
            answers = late_fusion.late_fusion_with_transcript(visual, audio, stack(group, "p_text"))
            hits["late_fusion_transcript"][subset] = (answers == truth).astype(float)
    return hits


def paired_differences(
    baseline: Sequence[PredictionRow], candidate: Sequence[PredictionRow], *, seed: int = 0, n_boot: int = 2000
) -> dict[str, Interval]:
    """Candidate minus baseline on the same clips: accuracy per subset, then ``conflict_mean`` and ``gap``.

    Raises:
        ValueError: if the two do not cover the same clips in the same subsets, or predict things of several kinds.
    """
    kind_of([*baseline, *candidate])
    before, after = ({(row.subset, row.id): row.credit for row in rows} for rows in (baseline, candidate))
    if before.keys() != after.keys():
        stray = next(iter(before.keys() ^ after.keys()))
        raise ValueError(f"a paired comparison needs the same clips on both sides; {stray} is on one side only.")
    pairs: dict[str, list[tuple[float, float]]] = {}
    for key, hit in before.items():
        pairs.setdefault(key[0], []).append((after[key], hit))
    hits = {subset: np.array(values).T for subset, values in pairs.items()}
    differences = {
        subset: bootstrap.paired_difference(hit[0], hit[1], seed=seed, n_boot=n_boot) for subset, hit in hits.items()
    }
    if all(subset in hits for subset in CONFLICT_SUBSETS):
        a, b = ({subset: hits[subset][side] for subset in CONFLICT_SUBSETS} for side in (0, 1))
        for name, statistic in CONFLICT_STATISTICS.items():
            differences[name] = bootstrap.paired_difference(a, b, statistic, seed=seed, n_boot=n_boot)
    return differences


def write_metrics(summary: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes ``metrics.json`` atomically, as strict JSON: an undefined metric (NaN) becomes null."""
    text = json.dumps(_without_nan(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def comparison_table(
    zero_shot: Mapping[str, Any],
    tuned: Mapping[str, Any],
    zero_shot_rows: Sequence[PredictionRow],
    tuned_rows: Sequence[PredictionRow],
    *,
    n_boot: int = 2000,
) -> Table:
    """Per subset: n, both accuracies, and the difference with its paired 95 % interval, in percentage points."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{tuned['benchmark']}: accuracy, zero-shot and tuned", style="table.title"))
    table.add_column("subset")
    for heading in ("n", "zero-shot", "tuned", "difference (95 %)"):
        table.add_column(heading, justify="right")
    differences = paired_differences(zero_shot_rows, tuned_rows, n_boot=n_boot)
    for name, difference in differences.items():
        if name in CONFLICT_STATISTICS:
            clips, before, after = "", zero_shot[name], tuned[name]
        else:
            clips = str(tuned["subsets"][name]["n"])
            before, after = zero_shot["subsets"][name]["accuracy"], tuned["subsets"][name]["accuracy"]
        if name == CONFLICT_MEAN:
            table.add_section()
        mean, low, high = (100 * value for value in difference)
        # Text, not str: rich would read markup such as [red] in a subset name.
        cells = [name.replace("_", " "), clips, f"{100 * before:.1f}", f"{100 * after:.1f}"]
        table.add_row(*map(Text, [*cells, f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"]))
    return table
