"""Figures that compare test subsets: whom does a model believe when the modalities disagree?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mosear.data.conflict_rules import AUDIO_ALIGNED, CONSISTENT, VIDEO_ALIGNED
from mosear.evaluation.metrics import classification
from mosear.evaluation.metrics.regression import SIMS_EDGES

Scores = TypeVar("Scores", float, npt.NDArray[np.float64])


def conflict_mean(video_aligned: Scores, audio_aligned: Scores) -> Scores:
    """``(VA + AA) / 2``: accuracy on conflicts, blind to which modality happens to be right more often."""
    return (video_aligned + audio_aligned) / 2


def gap(video_aligned: Scores, audio_aligned: Scores) -> Scores:
    """``|VA - AA|``: how much more one modality is trusted than the other; 0 is unbiased."""
    return abs(video_aligned - audio_aligned)


def camer_summary(scores: Mapping[str, float]) -> dict[str, float]:
    """CA-MER's summary of one score per subset, in the closed-set reading of VISTA::

        conflict = (A_va + A_aa) / 2        overall = (A_va + A_aa + A_cons) / 3        gap = |A_va - A_aa|

    ``overall`` weighs the three subsets equally: CA-MER has 500 clips in each. Any score per subset will do: accuracy
    in percent or as a share, or ``avg`` of the set-level metric.

    Args:
        scores: ``{"video_aligned": .., "audio_aligned": .., "consistent": ..}``; other subsets are ignored.

    Returns:
        ``conflict``, ``overall`` and ``gap``; NaN where a subset's score is NaN (an empty subset).

    Raises:
        ValueError: if one of the three subsets is not there.
    """
    absent = [name for name in (VIDEO_ALIGNED, AUDIO_ALIGNED, CONSISTENT) if name not in scores]
    if absent:
        raise ValueError(
            f"CA-MER's summary needs a score for {', '.join(absent)}; found {', '.join(scores) or 'none'}."
        )
    video, audio, consistent = (float(scores[name]) for name in (VIDEO_ALIGNED, AUDIO_ALIGNED, CONSISTENT))
    return {
        "conflict": conflict_mean(video, audio),
        "overall": (video + audio + consistent) / 3,
        "gap": gap(video, audio),
    }


def specificity(scores: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """VISTA's conflict specificity: gain in ``conflict`` minus gain in ``consistent``, over a baseline.

    Above 0 a method helps with conflicts in particular; near 0 it just answers better everywhere.

    Args:
        scores: per subset, as for :func:`camer_summary`.
        baseline: the same for the model it is compared with.

    Raises:
        ValueError: if a subset is missing on either side.
    """
    after, before = camer_summary(scores)["conflict"], camer_summary(baseline)["conflict"]
    return (after - before) - (float(scores[CONSISTENT]) - float(baseline[CONSISTENT]))


def sample_weighted(scores: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """``sum_s n_s score_s / sum_s n_s``: EmoMM's "Overall" from its subsets.

    Not the mean of the subsets: its "missing" subset is three times as large as the others together, and counts so.
    Exact for scores that are means over clips (accuracy, MAE); an F1 must be computed on all clips instead.

    Args:
        scores: one score per subset.
        counts: clips per subset; an empty subset (whose score is NaN) drops out.

    Returns:
        The weighted mean; NaN without any clip.

    Raises:
        ValueError: if the two do not name the same subsets.
    """
    if scores.keys() != counts.keys():
        raise ValueError(
            f"scores and counts must name the same subsets; {sorted(scores.keys() ^ counts.keys())} are on one side."
        )
    filled = {name: count for name, count in counts.items() if count}
    clips = sum(filled.values())
    return sum(count * float(scores[name]) for name, count in filled.items()) / clips if clips else float("nan")


def emomm_scores(
    y_true: Sequence[float],
    y_pred: Sequence[float | None],
    subsets: Sequence[str],
    *,
    edges: Sequence[float] = SIMS_EDGES[5],
) -> dict[str, dict[str, Any]]:
    """EmoMM's accuracy, F1 and MAE per subset and on all clips, for sentiment on the scale [-1, 1].

    The benchmark's files are not public. Our reading: a score's class is its place among ``edges`` (five levels, those
    of CH-SIMS), F1 is the macro F1 (beside it stands the weighted one), "overall" is over all clips at once. An answer
    that could not be read (None) is wrong, its class is none, and its error is the largest that the scale allows, ``1 +
    |y|``: neither left out nor taken for 0.

    Args:
        y_true: ``[N]`` true scores.
        y_pred: ``[N]`` predicted scores or None.
        subsets: ``[N]`` subset names.
        edges: ascending; a class owns its upper edge.

    Returns:
        ``{subset: {"n", "accuracy", "macro_f1", "weighted_f1", "mae", "unparsed"}, ..., "overall": {...}}``; "overall"
        alone, filled with NaN, for no clips.

    Raises:
        ValueError: if the lengths differ, a subset is called "overall", or a number lies outside the scale.
    """
    if not len(y_true) == len(y_pred) == len(subsets):
        raise ValueError(f"got {len(y_true)} true scores, {len(y_pred)} predictions and {len(subsets)} subset names.")
    if "overall" in subsets:
        raise ValueError("a subset is called 'overall', the name of the summary; rename it.")
    truth = np.asarray(y_true, dtype=np.float64)
    parsed = np.array([value is not None for value in y_pred], dtype=bool)
    prediction = np.array([0.0 if value is None else value for value in y_pred], dtype=np.float64)
    for name, values in (("y_true", truth), ("y_pred", prediction)):
        if not (np.abs(values) <= 1).all():
            raise ValueError(f"{name} must lie on the scale [-1, 1], got {values[~(np.abs(values) <= 1)][0]}.")
    errors = np.where(parsed, np.abs(truth - prediction), 1 + np.abs(truth))
    # In float32, as label files store them, so that a label on an edge lies on it.
    bounds = np.asarray(edges, dtype=np.float32)
    rows, levels = (np.searchsorted(bounds, values.astype(np.float32)) for values in (truth, prediction))
    columns = np.where(parsed, levels, len(edges) + 1)
    names = np.asarray(subsets, dtype=object)
    everything = np.ones(len(truth), dtype=bool)
    parts = {name: names == name for name in dict.fromkeys(subsets)} | {"overall": everything}
    return {
        name: _level_scores(rows[part], columns[part], errors[part], len(edges) + 1) for name, part in parts.items()
    }


def _level_scores(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], errors: npt.NDArray[np.float64], classes: int
) -> dict[str, Any]:
    matrix = np.zeros((classes, classes + 1), dtype=np.int64)
    np.add.at(matrix, (rows, columns), 1)
    return {
        "n": len(rows),
        "accuracy": classification.accuracy_from_confusion(matrix),
        "macro_f1": classification.macro_f1_from_confusion(matrix),
        "weighted_f1": classification.weighted_f1_from_confusion(matrix),
        "mae": float(errors.mean()) if errors.size else float("nan"),
        "unparsed": int(matrix[:, -1].sum()),
    }
