"""How predictions of each kind are scored and told: see :mod:`mosear.evaluation.predictions` for the kinds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mosear.evaluation import metrics
from mosear.evaluation.predictions import LABEL, LABELS, SCORE, SERIES, Kind, PredictionRow, kind_of

Scores = dict[str, Any]


@dataclass(frozen=True)
class Number:
    """A number of a subset.

    Attributes:
        key: in ``metrics.json``.
        heading: of its column.
        share: whether it is a share, shown in per cent; else it is shown as it is.
    """

    key: str
    heading: str
    share: bool = True

    def text(self, value: float | None) -> str:
        """As pages and tables show it; a dash where it is not defined."""
        if value is None or math.isnan(value):
            return "–"
        return f"{100 * value:.1f}" if self.share else f"{value:.3f}".replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is reported of one kind.

    Attributes:
        what: is predicted, in words.
        score: rows and label list to the numbers of a subset, in which ``unparsed`` counts all rows without prediction.
        numbers: those in the tables, accuracy first.
        own: keys of the numbers that only this kind has.
        lead: keys of the numbers that are shown where there is little room, beside the accuracy.
        accuracy: what the accuracy is, as a sentence.
        right: what an accuracy says of a system: a verb, and what follows the number.
        note: how to read the table of all numbers.
        chance: whether one over the number of labels is the accuracy of guessing.
        controls: whether late fusion of readings is a control.
    """

    what: str
    score: Callable[[Sequence[PredictionRow], Sequence[str]], Scores]
    numbers: tuple[Number, ...]
    own: tuple[str, ...] = ()
    lead: tuple[str, ...] = ("macro_f1",)
    accuracy: str = "Share of clips answered with the true label."
    right: tuple[str, str] = ("answers", "right")
    note: str = "In per cent. UAR averages recall over the classes that occur; WAR equals accuracy."
    chance: bool = True
    controls: bool = False

    def own_numbers(self) -> list[Number]:
        """Those of :attr:`own`."""
        return [number for number in self.numbers if number.key in self.own]

    def brief(self) -> list[Number]:
        """Those of :attr:`lead`."""
        return [number for number in self.numbers if number.key in self.lead]

    def headline(self) -> list[Number]:
        """Those of :attr:`lead` that only this kind has: they stand beside the accuracy at the top of a page."""
        return [number for number in self.brief() if number.key in self.own]


def true_sets(rows: Sequence[PredictionRow]) -> list[Sequence[str]]:
    """The true sets of labels."""
    return [row.labels or () for row in rows]


def predicted_sets(rows: Sequence[PredictionRow]) -> list[Sequence[str]]:
    """The predicted sets of labels; an answer that could not be read predicts none."""
    return [row.predicted_labels or () for row in rows]


def annotated(
    rows: Sequence[PredictionRow], dimension: int, unread: Callable[[float], float] | None = None
) -> tuple[list[float], list[float]]:
    """True and predicted values of all annotated steps of all rows, one after the other.

    Args:
        rows: with series.
        dimension: 0 = valence, 1 = arousal.
        unread: what the steps of an answer that could not be read count as, given the truth; ``None`` leaves them out.
    """
    truth, found = [], []
    for row in rows:
        predicted: Sequence[Sequence[float | None]] | None = row.predicted_series
        for step, values in enumerate(row.series or ()):
            if (value := values[dimension]) is None or (predicted is None and unread is None):
                continue
            truth.append(value)
            said = predicted[step][dimension] if predicted is not None else unread and unread(value)
            assert said is not None
            found.append(said)
    return truth, found


def _label(rows: Sequence[PredictionRow], labels: Sequence[str]) -> Scores:
    return metrics.score_subset([row.label for row in rows], [row.prediction for row in rows], labels)


def _labels(rows: Sequence[PredictionRow], labels: Sequence[str]) -> Scores:
    truth, found = (metrics.indicators(sets, labels) for sets in (true_sets(rows), predicted_sets(rows)))
    return {
        "n": len(rows),
        "accuracy": metrics.sample_jaccard(truth, found),
        "exact": sum(row.correct for row in rows) / len(rows) if rows else math.nan,
        **{f"micro_{name}": value for name, value in metrics.micro_scores(truth, found).items()},
        "macro_f1": metrics.macro_f1_over_labels(truth, found),
        "unparsed": sum(row.prediction is None for row in rows),
    }


def _score(rows: Sequence[PredictionRow], labels: Sequence[str]) -> Scores:
    truth = [row.score for row in rows if row.score is not None and row.predicted_score is not None]
    found = [row.predicted_score for row in rows if row.predicted_score is not None]
    return _label(rows, labels) | {
        "mae": metrics.mae(truth, found),
        "mse": metrics.mse(truth, found),
        "pearson": metrics.pearson(truth, found),
        "ccc": metrics.ccc(truth, found, ignore=None),
    }


def _series(rows: Sequence[PredictionRow], labels: Sequence[str]) -> Scores:
    valence, arousal = (metrics.ccc(*annotated(rows, dimension), ignore=None) for dimension in (0, 1))
    mean = metrics.affwild_score(valence, arousal)
    return _label(rows, labels) | {"ccc_valence": valence, "ccc_arousal": arousal, "ccc": mean}


_LABEL_NUMBERS = (
    Number("accuracy", "accuracy"),
    Number("weighted_f1", "weighted F1"),
    Number("macro_f1", "macro F1"),
    Number("uar", "UAR"),
    Number("war", "WAR"),
)
_CLASS_NUMBERS = tuple(number for number in _LABEL_NUMBERS if number.key in ("accuracy", "weighted_f1", "uar"))
_UNREAD = "Clips without an answer are left out of these."
SCORINGS: Mapping[Kind, Scoring] = {
    LABEL: Scoring(what="one label per clip", score=_label, numbers=_LABEL_NUMBERS, controls=True),
    LABELS: Scoring(
        what="sets of labels",
        score=_labels,
        numbers=(
            Number("accuracy", "accuracy"),
            Number("exact", "exactly right"),
            Number("micro_precision", "micro precision"),
            Number("micro_recall", "micro recall"),
            Number("micro_f1", "micro F1"),
            Number("macro_f1", "macro F1"),
        ),
        own=("exact", "micro_precision", "micro_recall", "micro_f1", "macro_f1"),
        lead=("exact", "micro_f1"),
        accuracy="Accuracy of label sets is their overlap: labels in both sets over labels in either (sample Jaccard), "
        "mean over clips. A clip with two empty sets counts 0, as published.",
        right=("reaches", "overlap of label sets"),
        note="In per cent. Accuracy is the sample Jaccard; micro numbers are over all decisions about clip and label; "
        "macro F1 is the mean over labels. An answer that could not be read predicts no label.",
        chance=False,
    ),
    SCORE: Scoring(
        what="scores",
        score=_score,
        numbers=(
            *_CLASS_NUMBERS,
            Number("mae", "MAE", share=False),
            Number("mse", "MSE", share=False),
            Number("pearson", "Pearson r", share=False),
            Number("ccc", "CCC", share=False),
        ),
        own=("mae", "mse", "pearson", "ccc"),
        lead=("mae", "pearson"),
        right=("puts", "of clips into the right class"),
        accuracy="Share of clips whose predicted score has the class of the true score.",
        note="Accuracy, F1 and UAR are of the scores' classes, in per cent. MAE, MSE, Pearson r and CCC are of "
        f"the scores themselves, on their own scale. {_UNREAD}",
    ),
    SERIES: Scoring(
        what="valence and arousal over time",
        score=_series,
        numbers=(
            *_CLASS_NUMBERS,
            Number("ccc_valence", "CCC valence", share=False),
            Number("ccc_arousal", "CCC arousal", share=False),
            Number("ccc", "CCC mean", share=False),
        ),
        own=("ccc_valence", "ccc_arousal", "ccc"),
        lead=("ccc_valence", "ccc_arousal", "ccc"),
        right=("puts", "of clips into the right class"),
        accuracy="Share of clips whose predicted series has the class of the true series.",
        note="Accuracy, F1 and UAR are of the series' classes, in per cent. CCC is over all annotated steps of "
        f"all clips, one after the other. {_UNREAD}",
    ),
}


def scoring_of(rows: Sequence[PredictionRow]) -> Scoring:
    """How these rows are scored.

    Raises:
        ValueError: they are of several kinds.
    """
    return SCORINGS[kind_of(rows)]
