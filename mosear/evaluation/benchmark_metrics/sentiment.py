"""Benchmarks of sentiment and valence: scores, or labels that stand for scores (``benchmark.levels``)."""

from __future__ import annotations

import math
from collections.abc import Callable

from mosear.evaluation import metrics
from mosear.evaluation.benchmark_metrics.base import Answers, Metric, Scores, score_pairs, subset_scores

MOSI_BOUND, SIMS_BOUND, VALENCE_BOUND = 3.0, 1.0, 5.0


def mer2023(answers: Answers) -> Scores:
    """Weighted F1, and where every clip of the part has a valence, its MSE and ``wF1 - 0.25 MSE``."""
    result: Scores = {}
    for part, own in subset_scores(answers).items():
        rows = answers.parts()[part]
        result[part] = {"n": own["n"], "weighted_f1": own["weighted_f1"], "unparsed": own["unparsed"]}
        if all(answers.known_score(row) is not None for row in rows):
            error = metrics.mse(*score_pairs(answers, rows, lambda y: -math.copysign(VALENCE_BOUND, y)))
            result[part] |= {"valence_mse": error, "score": metrics.mer_score(own["weighted_f1"], error)}
    return result


def mosi(answers: Answers) -> Scores:
    """:func:`metrics.mosi_scores` of the predicted scores, on [-3, 3]."""
    return _sentiment(answers, metrics.mosi_scores, lambda y: -MOSI_BOUND if y >= 0 else MOSI_BOUND)


def sims(answers: Answers) -> Scores:
    """:func:`metrics.sims_scores` of the predicted scores, on [-1, 1]."""
    return _sentiment(answers, metrics.sims_scores, lambda y: -SIMS_BOUND if y > 0 else SIMS_BOUND)


def _sentiment(
    answers: Answers, function: Callable[[list[float], list[float]], dict[str, float]], wrong: Callable[[float], float]
) -> Scores:
    return {
        part: {**function(*score_pairs(answers, rows, wrong)), "unparsed": sum(row.prediction is None for row in rows)}
        for part, rows in answers.parts().items()
    }


def emomm(answers: Answers) -> Scores:
    """:func:`metrics.emomm_scores`; overall is over all clips, those without a modality included."""
    truth = [answers.true_score(row) for row in answers.rows]
    found = [answers.predicted_score(row) for row in answers.rows]
    return metrics.emomm_scores(truth, found, [row.subset for row in answers.rows])


METRICS = {
    "mer2023": Metric(mer2023, levels=True),
    "mosi": Metric(mosi, levels=True),
    "sims": Metric(sims, levels=True),
    "emomm": Metric(emomm, levels=True),
}
