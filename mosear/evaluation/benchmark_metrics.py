"""``benchmark.metrics``: what benchmarks publish, by name, from the predictions of one system.

Every metric gives ``{part: {number: value}}``. Parts are the test subsets, where there are several, and ``overall``,
all clips at once. The numbers are those of the pure functions in :mod:`mosear.evaluation.metrics`; this module only
says which columns of predictions and clips go into them.

Sentiment without a regressor: ``benchmark.levels`` gives each label a score ``v``, and a clip's predicted score is::

    s = sum_c p_c v_c     p: the distribution over the labels, where labels were scored
    s = v_c               c: the label that was read from a generated answer

An answer that could not be read gets the end of the scale that is wrong under every definition of the metric; it is
neither left out nor taken for 0, and ``unparsed`` counts such answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mosear.data.clip import Clip
from mosear.data.conflict_rules import AUDIO_ALIGNED, CONSISTENT, VIDEO_ALIGNED
from mosear.evaluation import metrics
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.summary import by_subset
from mosear.inference.parsing import parse_list

if TYPE_CHECKING:
    from rich.table import Table

OVERALL, SUMMARY = "overall", "summary"
CAMER_PARTS = (CONSISTENT, VIDEO_ALIGNED, AUDIO_ALIGNED)
MOSI_BOUND, SIMS_BOUND, VALENCE_BOUND = 3.0, 1.0, 5.0

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
        """The expected level, or that of the generated answer; None for an answer that could not be read."""
        if row.prediction is None:
            return None
        if row.answer_text is None and row.distribution is not None:
            return sum(p * self.levels[label] for label, p in zip(self.labels, row.distribution, strict=True))
        return self.levels[row.prediction]

    def true_score(self, row: PredictionRow) -> float:
        """The clip's score.

        Raises:
            ValueError: it has none.
        """
        score = self.clips[row.id].score
        if score is None:
            raise ValueError(f"clip {row.id!r} has no score (manifest column score).")
        return score


@dataclass(frozen=True)
class Metric:
    """A named metric and what it needs.

    Attributes:
        score: from answers to ``{part: {number: value}}``. It raises ValueError where clips lack what it reads, never
            because of what was predicted, or because rows of some subset are absent.
        subsets: subsets that the manifest must have.
        levels: whether ``benchmark.levels`` must give every label a score.
        text: whether it reads generated text.
    """

    score: Callable[[Answers], Scores]
    subsets: tuple[str, ...] = ()
    levels: bool = False
    text: bool = False


def benchmark_scores(names: Sequence[str], answers: Answers) -> dict[str, Scores]:
    """``{metric: {part: {number: value}}}``, the content of ``benchmark_metrics`` in ``metrics.json``.

    Args:
        names: keys of :data:`METRICS`.
        answers: the predictions of one system with their clips.

    Raises:
        ValueError: for an unknown name, missing levels, or clips that lack what a metric reads.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"unknown benchmark metrics {', '.join(unknown)}; there are {', '.join(METRICS)}.")
    found = {}
    for name in names:
        if METRICS[name].levels and (wrong := wrong_levels(answers.labels, answers.levels)):
            raise ValueError(f"{name}: {wrong}")
        try:
            found[name] = METRICS[name].score(answers)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def wrong_levels(labels: Sequence[str], levels: Mapping[str, float]) -> str | None:
    """Says why ``levels`` do not give every label a score, or None if they do."""
    if set(levels) == set(labels):
        return None
    return (
        f"levels must give a score to exactly the labels {', '.join(labels)}; they name {', '.join(levels) or 'none'}."
    )


def _closed(*numbers: str) -> Callable[[Answers], Scores]:
    """A metric made of some numbers of :func:`metrics.score_subset`."""

    def score(answers: Answers) -> Scores:
        chosen = ("n", *numbers, "unparsed")
        return {part: {name: own[name] for name in chosen} for part, own in _subset_scores(answers).items()}

    return score


def _subset_scores(answers: Answers) -> dict[str, dict[str, Any]]:
    return {
        part: metrics.score_subset([row.label for row in rows], [row.prediction for row in rows], answers.labels)
        for part, rows in answers.parts().items()
    }


def skew(answers: Answers) -> Scores:
    """Accuracy and UAR beside what a constant answer gets (:func:`metrics.skew_summary`)."""
    return {part: metrics.skew_summary(own["confusion"]) for part, own in _subset_scores(answers).items()}


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


def mer2023(answers: Answers) -> Scores:
    """Weighted F1, and where every clip of the part has a valence, its MSE and ``wF1 - 0.25 MSE``."""
    result: Scores = {}
    for part, own in _subset_scores(answers).items():
        rows = answers.parts()[part]
        result[part] = {"n": own["n"], "weighted_f1": own["weighted_f1"], "unparsed": own["unparsed"]}
        if all(answers.clips[row.id].score is not None for row in rows):
            error = metrics.mse(*_score_pairs(answers, rows, lambda y: -math.copysign(VALENCE_BOUND, y)))
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
        part: {**function(*_score_pairs(answers, rows, wrong)), "unparsed": sum(row.prediction is None for row in rows)}
        for part, rows in answers.parts().items()
    }


def _score_pairs(
    answers: Answers, rows: Sequence[PredictionRow], wrong: Callable[[float], float]
) -> tuple[list[float], list[float]]:
    """``[N]`` true and ``[N]`` predicted scores; ``wrong(truth)`` is what an unreadable answer counts as."""
    truth = [answers.true_score(row) for row in rows]
    found = [answers.predicted_score(row) for row in rows]
    return truth, [wrong(y) if p is None else p for y, p in zip(truth, found, strict=True)]


def emomm(answers: Answers) -> Scores:
    """:func:`metrics.emomm_scores`; overall is over all clips, those without a modality included."""
    truth = [answers.true_score(row) for row in answers.rows]
    found = [answers.predicted_score(row) for row in answers.rows]
    return metrics.emomm_scores(truth, found, [row.subset for row in answers.rows])


def number_text(value: float | None) -> str:
    """A count as it is, a score with three digits, and a dash for what is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def benchmark_table(found: Mapping[str, Scores]) -> Table:
    """One row per metric and part, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="benchmark metrics")
    for heading in ("metric", "clips", "numbers"):
        table.add_column(heading)
    for name, parts in found.items():
        for part, numbers in parts.items():
            shown = "   ".join(f"{key} {number_text(value)}" for key, value in numbers.items())
            table.add_row(*map(Text, (name, part.replace("_", " "), shown)))
    return table


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(_closed("accuracy")),
    "weighted_f1": Metric(_closed("weighted_f1")),
    "macro_f1": Metric(_closed("macro_f1")),
    "uar": Metric(_closed("uar")),
    "war_uar": Metric(_closed("war", "uar")),
    "skew": Metric(skew),
    "camer": Metric(camer, subsets=CAMER_PARTS),
    "camer_set": Metric(camer_set, subsets=CAMER_PARTS, text=True),
    "mer2023": Metric(mer2023, levels=True),
    "mosi": Metric(mosi, levels=True),
    "sims": Metric(sims, levels=True),
    "emomm": Metric(emomm, levels=True),
}
"""The names that ``benchmark.metrics`` accepts; docs/benchmarks.md says what each of them reports."""
