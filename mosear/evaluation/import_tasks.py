"""What imported predictions may be: one label, a set of labels or a score per clip."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mosear.data.clip import Clip
from mosear.evaluation.predictions import joined
from mosear.inference.parsing import parse_answer

NO_PREDICTION = "no prediction in the file"
_EMPTY = "empty"


@dataclass(frozen=True)
class Given:
    """What the file says about one clip.

    Attributes:
        answer: a label or generated text, a set of labels (list or text), a score (number or text); or None.
        distribution: ``[C]`` probabilities in the order of the labels, or None.
    """

    answer: Any
    distribution: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ImportTask:
    """How one kind of predictions is read.

    Attributes:
        column: the column that is read unless another is named.
        wants: what a value of it is, in words.
        accepts: whether a value is that.
        independent: whether probabilities are each label's own; else they add up to 1.
        problem: why the manifest and the options do not suit, or None.
        fields: of a clip's prediction row: what is true, and what the file says.
    """

    column: str
    wants: str
    accepts: Callable[[Any], bool]
    independent: bool
    problem: Callable[[Sequence[Clip], argparse.Namespace], str | None]
    fields: Callable[[Clip, Given | None, argparse.Namespace], dict[str, Any]]


def _unread(reason: str) -> dict[str, Any]:
    return {"prediction": None, "unparsed_reason": reason}


def _labels_problem(clips: Sequence[Clip], options: argparse.Namespace) -> str | None:
    absent = next((clip.id for clip in clips if clip.label is None), None)
    if absent is None:
        return None
    return f"clip {absent!r} of the manifest has no label, so no answer to it can be scored."


def _label_fields(clip: Clip, given: Given | None, options: argparse.Namespace) -> dict[str, Any]:
    labels: Sequence[str] = options.labels
    row: dict[str, Any] = {"label": clip.label, "distribution": None if given is None else given.distribution}
    if given is None:
        return row | _unread(NO_PREDICTION)
    if given.answer is None:
        if given.distribution is None:
            return row | _unread(_EMPTY)
        return row | {"prediction": labels[given.distribution.index(max(given.distribution))]}
    parsed = parse_answer(given.answer, labels, answer_format=options.answer_format, synonyms=options.synonyms)
    # A bare label beside probabilities is their argmax written out, not generated text.
    said = given.answer if given.distribution is None or given.answer.strip() not in labels else None
    return row | {"prediction": parsed.label, "unparsed_reason": parsed.reason, "answer_text": said}


def _sets_problem(clips: Sequence[Clip], options: argparse.Namespace) -> str | None:
    if not any(clip.labels for clip in clips):
        return "no clip of the manifest has a set of labels (column labels); for one label per clip use --task label."
    for clip in clips:
        if outside := [label for label in clip.labels if label not in options.labels]:
            return f"clip {clip.id!r} of the manifest has the labels {', '.join(outside)} too; add them to --labels."
    return None


def _set_fields(clip: Clip, given: Given | None, options: argparse.Namespace) -> dict[str, Any]:
    labels: Sequence[str] = options.labels
    row: dict[str, Any] = {"label": joined(clip.labels, labels), "labels": list(clip.labels)}
    if given is None:
        return row | _unread(NO_PREDICTION)
    row["distribution"] = given.distribution
    if given.answer is not None:
        chosen, reason = _read_set(given.answer, options)
    elif given.distribution is not None:
        chosen = [name for name, p in zip(labels, given.distribution, strict=True) if p >= options.threshold]
        reason = None
    else:
        chosen, reason = [], _EMPTY
    if reason is not None:
        return row | _unread(reason)
    ordered = [label for label in labels if label in chosen]
    return row | {"prediction": joined(ordered, labels), "predicted_labels": ordered}


def _read_set(answer: str | Sequence[str], options: argparse.Namespace) -> tuple[list[str], str | None]:
    """The labels, or why they cannot be read. Nothing at all, ``[]`` and "none" are the empty set."""
    names: Any = answer
    if isinstance(answer, str):
        text = answer.strip()
        if text.startswith("["):
            try:
                names = json.loads(text)
            except ValueError:
                return [], f"not a JSON list: {text[:80]!r}"
        else:
            empty = not text or (text.lower() == "none" and "none" not in options.labels)
            names = [] if empty else text.split("|")
    found = []
    for name in names:
        parsed = parse_answer(str(name), options.labels, answer_format="word", synonyms=options.synonyms)
        if parsed.label is None:
            return [], f"{name!r}: {parsed.reason}"
        found.append(parsed.label)
    return found, None


def _scores_problem(clips: Sequence[Clip], options: argparse.Namespace) -> str | None:
    if set(options.levels) != set(options.labels):
        return (
            f"--task score needs the score of every label, by which scores are put into classes; --levels names "
            f"{', '.join(options.levels) or 'none'} of {', '.join(options.labels)}."
        )
    absent = next((clip.id for clip in clips if clip.score is None), None)
    return (
        None if absent is None else f"clip {absent!r} of the manifest has no score, so no answer to it can be scored."
    )


def _score_fields(clip: Clip, given: Given | None, options: argparse.Namespace) -> dict[str, Any]:
    assert clip.score is not None
    row: dict[str, Any] = {"label": _nearest(clip.score, options.levels), "score": clip.score}
    if given is None:
        return row | _unread(NO_PREDICTION)
    if given.answer in (None, ""):
        return row | _unread(_EMPTY)
    try:
        score = float(given.answer)
    except ValueError:
        return row | _unread(f"not a number: {given.answer[:80]!r}")
    if not math.isfinite(score):
        return row | _unread(f"not a finite number: {score}")
    return row | {"prediction": _nearest(score, options.levels), "predicted_score": score}


def _nearest(score: float, levels: Mapping[str, float]) -> str:
    return min(levels, key=lambda label: abs(levels[label] - score))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))


def _is_number(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, int | float) and not isinstance(value, bool))


TASKS: Mapping[str, ImportTask] = {
    "label": ImportTask("prediction", "text", _is_text, False, _labels_problem, _label_fields),
    "labels": ImportTask("labels", "text or a list of texts", _is_texts, True, _sets_problem, _set_fields),
    "score": ImportTask("score", "a number", _is_number, False, _scores_problem, _score_fields),
}
"""By the name that ``--task`` takes."""
