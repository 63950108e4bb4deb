"""What a benchmark metric is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mosear.data.clip import Clip
from mosear.evaluation import metrics
from mosear.evaluation.predictions import LABEL, SCORE, SERIES, Kind, PredictionRow
from mosear.evaluation.summary import by_subset

OVERALL, SUMMARY = "overall", "summary"

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a metric may look at.

    Attributes:
        rows: predictions of one system.
        labels: the label list, in the order of the distributions.
        clips: ``{id: clip}`` of the manifest; only those that ``rows`` name are looked up.
        levels: ``{label: score}``, empty where labels stand for no score.
        synonyms: ``{spelling: label}``.
    """

    rows: Sequence[PredictionRow]
    labels: Sequence[str]
    clips: Mapping[str, Clip]
    levels: Mapping[str, float] = field(default_factory=dict)
    synonyms: Mapping[str, str] = field(default_factory=dict)

    def parts(self) -> dict[str, Sequence[PredictionRow]]:
        """The subsets, if there are several, and then all rows.

        Raises:
            ValueError: a subset has the name of the whole.
        """
        groups = by_subset(self.rows)
        if OVERALL in groups:
            raise ValueError(f"a subset is called {OVERALL!r}, the name for all clips at once; rename it.")
        subsets: dict[str, Sequence[PredictionRow]] = {**groups} if len(groups) > 1 else {}
        return subsets | {OVERALL: self.rows}

    def predicted_score(self, row: PredictionRow) -> float | None:
        """The predicted score, else the expected level or that of the generated answer; None for an unreadable one."""
        if row.prediction is None:
            return None
        if row.predicted_score is not None:
            return row.predicted_score
        if row.answer_text is None and row.distribution is not None:
            return sum(p * self.levels[label] for label, p in zip(self.labels, row.distribution, strict=True))
        return self.levels[row.prediction]

    def true_score(self, row: PredictionRow) -> float:
        """The score of the row, or else of the clip.

        Raises:
            ValueError: it has none.
        """
        score = self.known_score(row)
        if score is None:
            raise ValueError(f"clip {row.id!r} has no score (manifest column score).")
        return score

    def known_score(self, row: PredictionRow) -> float | None:
        """The true score, if there is one."""
        return self.clips[row.id].score if row.score is None else row.score


@dataclass(frozen=True)
class Metric:
    """A named metric and what it needs.

    Attributes:
        score: from answers to ``{part: {number: value}}``. It raises ValueError where clips lack what it reads, never
            because of what was predicted, or because rows of some subset are absent.
        subsets: subsets that the manifest must have.
        levels: whether ``benchmark.levels`` must give every label a score, unless scores are predicted.
        text: whether it reads generated text.
        kinds: the kinds of predictions that it can read.
    """

    score: Callable[[Answers], Scores]
    subsets: tuple[str, ...] = ()
    levels: bool = False
    text: bool = False
    kinds: frozenset[Kind] = frozenset({LABEL, SCORE, SERIES})

    def unfit(self, kind: Kind) -> str | None:
        """Why it cannot read predictions of this kind, or None if it can."""
        if kind in self.kinds:
            return None
        return f"it reads predictions of the kinds {', '.join(sorted(self.kinds))}, and these are of the kind {kind}."

    def needs_levels(self, kind: Kind) -> bool:
        """Whether every label must have a score."""
        return self.levels and kind != SCORE


def subset_scores(answers: Answers) -> dict[str, dict[str, Any]]:
    """:func:`metrics.score_subset` of every part."""
    return {
        part: metrics.score_subset([row.label for row in rows], [row.prediction for row in rows], answers.labels)
        for part, rows in answers.parts().items()
    }


def score_pairs(
    answers: Answers, rows: Sequence[PredictionRow], wrong: Callable[[float], float]
) -> tuple[list[float], list[float]]:
    """``[N]`` true and ``[N]`` predicted scores; ``wrong(truth)`` is what an unreadable answer counts as."""
    truth = [answers.true_score(row) for row in rows]
    found = [answers.predicted_score(row) for row in rows]
    return truth, [wrong(y) if p is None else p for y, p in zip(truth, found, strict=True)]


def wrong_levels(labels: Sequence[str], levels: Mapping[str, float]) -> str | None:
    """Says why ``levels`` do not give every label a score, or None if they do."""
    if set(levels) == set(labels):
        return None
    return (
        f"levels must give a score to exactly the labels {', '.join(labels)}; they name {', '.join(levels) or 'none'}."
    )
