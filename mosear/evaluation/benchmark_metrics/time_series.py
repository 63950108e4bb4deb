"""Aff-Wild2: valence and arousal over time, both on [-1, 1]."""

from __future__ import annotations

import math

from mosear.evaluation import metrics
from mosear.evaluation.benchmark_metrics.base import Answers, Metric, Scores
from mosear.evaluation.kinds import annotated
from mosear.evaluation.predictions import SERIES

BOUND = 1.0


def affwild(answers: Answers) -> Scores:
    """CCC of valence and arousal over all annotated steps of a part, and their mean; ``n`` is clips.

    The steps of an answer that could not be read count as the end of the scale that is further from the truth.
    """
    parts: Scores = {}
    for part, rows in answers.parts().items():
        pairs = [annotated(rows, dimension, unread=lambda y: -math.copysign(BOUND, y)) for dimension in (0, 1)]
        valence, arousal = (metrics.ccc(*pair, ignore=None) for pair in pairs)
        parts[part] = {
            "n": len(rows),
            "ccc_valence": valence,
            "ccc_arousal": arousal,
            "ccc": metrics.affwild_score(valence, arousal),
            "steps_valence": len(pairs[0][0]),
            "steps_arousal": len(pairs[1][0]),
            "unparsed": sum(row.prediction is None for row in rows),
        }
    return parts


METRICS = {"affwild": Metric(affwild, kinds=frozenset({SERIES}))}
