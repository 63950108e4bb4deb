"""Numbers of closed-set classification."""

from __future__ import annotations

from collections.abc import Callable

from mosear.evaluation import metrics
from mosear.evaluation.benchmark_metrics.base import Answers, Metric, Scores, subset_scores


def _closed(*numbers: str) -> Callable[[Answers], Scores]:
    """A metric made of some numbers of :func:`metrics.score_subset`."""

    def score(answers: Answers) -> Scores:
        chosen = ("n", *numbers, "unparsed")
        return {part: {name: own[name] for name in chosen} for part, own in subset_scores(answers).items()}

    return score


def skew(answers: Answers) -> Scores:
    """Accuracy and UAR beside what a constant answer gets (:func:`metrics.skew_summary`)."""
    return {part: metrics.skew_summary(own["confusion"]) for part, own in subset_scores(answers).items()}


METRICS = {
    "accuracy": Metric(_closed("accuracy")),
    "weighted_f1": Metric(_closed("weighted_f1")),
    "macro_f1": Metric(_closed("macro_f1")),
    "uar": Metric(_closed("uar")),
    "war_uar": Metric(_closed("war", "uar")),
    "skew": Metric(skew),
}
