"""CA-MER, whose subsets say which modality decides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mosear.data.conflict_rules import AUDIO_ALIGNED, CONSISTENT, VIDEO_ALIGNED
from mosear.evaluation import metrics
from mosear.evaluation.benchmark_metrics.base import SUMMARY, Answers, Metric, Scores
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.summary import by_subset
from mosear.inference.parsing import parse_list

CAMER_PARTS = (CONSISTENT, VIDEO_ALIGNED, AUDIO_ALIGNED)


def camer(answers: Answers) -> Scores:
    """CA-MER in the closed-set reading: accuracy per subset, then ``conflict``, ``overall`` (over subsets), ``gap``."""
    parts: Scores = {}
    for part, rows in _camer_rows(answers).items():
        said, labels = [row.prediction for row in rows], answers.labels
        parts[part] = {"n": len(rows), "accuracy": metrics.accuracy([row.label for row in rows], said, labels)}
    return parts | {SUMMARY: _camer_summary(parts, "accuracy")}


def _camer_rows(answers: Answers) -> dict[str, list[PredictionRow]]:
    groups = by_subset(answers.rows)
    return {name: groups[name] for name in CAMER_PARTS if name in groups}


def camer_set(answers: Answers) -> Scores:
    """CA-MER's set-level metric: the words of each answer against the clip's ``labels``, then the summary of ``avg``.

    The published grouping of synonyms was made by a language model and is not public; here ``data.prompt.synonyms`` map
    words to labels, and every other word stands for itself.
    """

    def gold(row: PredictionRow) -> Sequence[str]:
        words = answers.clips[row.id].labels
        if not words:
            raise ValueError(f"clip {row.id!r} has no words to find (manifest column labels).")
        return words

    synonyms = {spelling.lower(): label for spelling, label in answers.synonyms.items()}
    parts: Scores = {}
    for part, rows in _camer_rows(answers).items():
        found = [parse_list(row.answer_text) for row in rows]
        scores = metrics.set_scores([gold(row) for row in rows], found, match=lambda word: synonyms.get(word, word))
        parts[part] = {name: scores[name] for name in ("n", "precision", "recall", "avg", "mean_predicted")}
    return parts | {SUMMARY: _camer_summary(parts, "avg")}


def _camer_summary(parts: Scores, number: str) -> dict[str, float]:
    """NaN where a subset is absent, as after a test of a few batches."""
    return metrics.camer_summary({name: parts.get(name, {}).get(number, math.nan) for name in CAMER_PARTS})


METRICS = {
    "camer": Metric(camer, subsets=CAMER_PARTS),
    "camer_set": Metric(camer_set, subsets=CAMER_PARTS, text=True),
}
