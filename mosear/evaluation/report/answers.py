"""How an example shows answers that are no single label: marked sets, scores on a scale, lines over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mosear.evaluation.predictions import LABEL, LABELS, SCORE, SERIES, Kind, PredictionRow
from mosear.evaluation.report import svg
from mosear.evaluation.report.content import Example
from mosear.evaluation.report.scale import Scale, enclosing
from mosear.evaluation.report.text import in_words, percent

TRUE_CSS = "truth"
DIMENSIONS = ("valence", "arousal")
_PROBABILITIES = "of each system on the whole clip, then of the model on one modality alone"
HOW_TO_READ: Mapping[Kind, str] = {
    LABEL: f"Label probabilities in per cent: {_PROBABILITIES}. The true label is in bold.",
    LABELS: "✓ marks a label of both sets, + one that was predicted and is not true, − one that was missed. Label "
    f"probabilities, each by itself, in per cent: {_PROBABILITIES}. True labels are in bold, and so are probabilities "
    "of predicted labels.",
    SCORE: "The scale, the same for all clips, shows the true score as a line and each system's as a dot. The words "
    "are the classes of the scores.",
    SERIES: "Valence and arousal by step: the truth and each system. Steps without annotation are left out. The words "
    "are the classes of the series.",
}
_MARKS = {"right": "✓", "wrong": "+", "missed": "−"}


def heading_of_truth(example: Example) -> str:
    """What stands before the true label."""
    kinds = {row.kind for row in example.rows.values()}
    return "True labels" if LABELS in kinds else "True class" if kinds & {SCORE, SERIES} else "True label"


def common_scale(examples: Sequence[Example]) -> Scale | None:
    """One scale for the scores of all examples; ``None`` if there are no scores."""
    scores = [score for example in examples for row in example.rows.values() for score in _scores(row)]
    return enclosing(scores) if scores else None


def _scores(row: PredictionRow) -> list[float]:
    return [score for score in (row.score, row.predicted_score) if score is not None]


def answer(row: PredictionRow | None, prediction: str | None, *, right: bool) -> dict[str, Any]:
    """The answer in words, marks for its labels if it is a set, and how right it is."""
    verdict = "right" if right else "wrong"
    if row is None or prediction is None or row.kind == LABEL:
        return {"text": "unparsed" if prediction is None else prediction, "marks": [], "verdict": verdict}
    if row.kind == LABELS:
        overlap = verdict if right or not row.credit else f"overlap {percent(row.credit)} %"
        return {"text": prediction, "marks": _marked(row), "verdict": overlap}
    score = "" if row.predicted_score is None else f" ({row.predicted_score:+.2f})".replace("-", "−")
    return {"text": prediction + score, "marks": [], "verdict": verdict}


def _marked(row: PredictionRow) -> list[tuple[str, str, str]]:
    """(css class, mark, label) of every label of either set, shared ones first; empty for two empty sets."""
    truth, found = list(row.labels or ()), list(row.predicted_labels or ())
    kinds = {
        "right": [label for label in found if label in truth],
        "wrong": [label for label in found if label not in truth],
        "missed": [label for label in truth if label not in found],
    }
    return [(css, _MARKS[css], label) for css, own in kinds.items() for label in own]


def plots(example: Example, colours: Mapping[str, str], scale: Scale | None) -> list[tuple[str, Markup]]:
    """(caption, graphic) for scores and series.

    Args:
        example: the clip.
        colours: ``{system: css class}``; other systems are left out.
        scale: of :func:`common_scale`.
    """
    rows = {name: row for name, row in example.rows.items() if name in colours}
    if not rows:
        return []
    first = next(iter(rows.values()))
    if first.kind == SCORE:
        return _score_plot(first, rows, colours, scale or enclosing([s for row in rows.values() for s in _scores(row)]))
    return [_chart(place, first, rows, colours) for place in range(2)] if first.kind == SERIES else []


def _score_plot(
    first: PredictionRow, rows: Mapping[str, PredictionRow], colours: Mapping[str, str], scale: Scale
) -> list[tuple[str, Markup]]:
    assert first.score is not None
    said = [
        (in_words(name), colours[name], row.predicted_score)
        for name, row in rows.items()
        if row.predicted_score is not None
    ]
    told = ", ".join(f"{name} {value:.2f}" for name, _, value in said) or "no answer"
    plot = svg.score_marks(first.score, said, scale=scale, label=f"true score {first.score:.2f}; {told}")
    return [(f"true score {first.score:+.2f}".replace("-", "−"), plot)]


def _chart(
    place: int, first: PredictionRow, rows: Mapping[str, PredictionRow], colours: Mapping[str, str]
) -> tuple[str, Markup]:
    lines, css = {}, {}
    columns = [("true", TRUE_CSS, first.series)]
    columns += [(in_words(name), colours[name], row.predicted_series) for name, row in rows.items()]
    for name, colour, series in columns:
        for title, points in _runs_of_numbers(name, [step[place] for step in series or ()]):
            lines[title], css[title] = points, colour
    told = ", ".join(name for name, _, series in columns if series is not None)
    return DIMENSIONS[place], svg.line_chart(lines, css, label=f"{DIMENSIONS[place]} by step: {told}")


def _runs_of_numbers(name: str, values: Sequence[float | None]) -> list[tuple[str, list[tuple[float, float]]]]:
    """Stretches without a gap, each with a title: a line must not cross steps that have no value."""
    runs: list[list[tuple[float, float]]] = [[]]
    for step, value in enumerate(values):
        if value is not None and math.isfinite(value):
            runs[-1].append((float(step), value))
        elif runs[-1]:
            runs.append([])
    return [(f"{name}, steps {own[0][0]:.0f} to {own[-1][0]:.0f}", own) for own in runs if own]
