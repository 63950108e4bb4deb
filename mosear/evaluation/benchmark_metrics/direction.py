"""Whom a model follows on conflicts, from the labels that the manifest gives to face and voice."""

from __future__ import annotations

import math

from mosear.evaluation.benchmark_metrics.base import Answers, Metric, Scores
from mosear.evaluation.bias import conflicts
from mosear.evaluation.metrics.direction import SIDES, direction_index, sides


def direction(answers: Answers) -> Scores:
    """Per part, the conflicts in it, the share of answers with each label, and the index of ``direction_index``.

    Raises:
        ValueError: no clip of the manifest has different labels for face and voice.
    """
    parts: Scores = {}
    for part, rows in answers.parts().items():
        found = conflicts(rows, answers.clips)
        if not found:
            continue
        side = sides([one.row.prediction for one in found], [one.visual for one in found], [one.audio for one in found])
        counts = [int((side == place).sum()) for place in range(len(SIDES))]
        shares = {name: count / len(found) for name, count in zip(SIDES, counts, strict=True)}
        index = direction_index(counts[0], counts[1])
        parts[part] = {"n": len(found), **shares, "direction": float(index) if index.size else math.nan}
    if parts:
        return parts
    if not any(clip.modality_labels.conflict for clip in answers.clips.values()):
        raise ValueError(
            "no clip has different labels for face and voice (modality_labels in the manifest): there are no conflicts."
        )
    # As after a test of a few batches.
    return {"overall": {"n": 0, **dict.fromkeys(SIDES, math.nan), "direction": math.nan}}


METRICS = {"direction": Metric(direction)}
