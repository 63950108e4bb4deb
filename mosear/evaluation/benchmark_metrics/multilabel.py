"""Several labels per clip, as on CMU-MOSEI's emotions."""

from __future__ import annotations

from mosear.evaluation import metrics
from mosear.evaluation.benchmark_metrics.base import Answers, Metric, Scores
from mosear.evaluation.kinds import predicted_sets, true_sets
from mosear.evaluation.predictions import LABELS


def multilabel(answers: Answers) -> Scores:
    """:func:`metrics.multilabel_scores`; an answer that could not be read predicts no label.

    Precision is ``TP / (TP + FP)`` and recall ``TP / (TP + FN)``. LDDU's script calls scikit-learn with predictions
    first, so that its log has the two the other way round.
    """
    return {
        part: {
            **metrics.multilabel_scores(
                metrics.indicators(true_sets(rows), answers.labels),
                metrics.indicators(predicted_sets(rows), answers.labels),
            ),
            "unparsed": sum(row.prediction is None for row in rows),
        }
        for part, rows in answers.parts().items()
    }


METRICS = {"multilabel": Metric(multilabel, kinds=frozenset({LABELS}))}
