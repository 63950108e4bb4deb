"""``predictions.parquet``: one row per clip and model, with everything needed to score the run again.

The label list, which orders every distribution, travels in the schema metadata of the file.

A row is of one kind, and so are all rows of a file:

=========  ==========================================  ==========================================================
kind       what is true and what is predicted          ``label`` and ``prediction``
=========  ==========================================  ==========================================================
``label``  ``label``, ``prediction``                   themselves
``labels`` ``labels``, ``predicted_labels``: sets      the sets in the order of the label list, joined by " + "
``score``  ``score``, ``predicted_score``              the classes that the system gives to the scores
``series`` ``series``, ``predicted_series``: valence   the classes that the system gives to the series
           and arousal per step
=========  ==========================================  ==========================================================
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mosear.files import written_atomically

BAD_MEDIA = "bad media: "
"""Begins the ``unparsed_reason`` of a clip that was never asked about; its cause follows."""

_LABELS_KEY = b"mosear.labels"
_DISTRIBUTIONS = ("distribution", "p_visual", "p_audio", "p_text")
_TRUTHS = {"labels": "predicted_labels", "score": "predicted_score", "series": "predicted_series"}
_OPTIONAL = ("conflict", "target", "attention_before", "attention_after", *_TRUTHS, *_TRUTHS.values())
_DIMENSIONS = ("valence", "arousal")

Kind = Literal["label", "labels", "score", "series"]
Series = Sequence[tuple[float | None, float | None]]
LABEL: Kind = "label"
LABELS: Kind = "labels"
SCORE: Kind = "score"
SERIES: Kind = "series"
EMPTY_SET = "none"
"""How an empty set of labels is written."""


def joined(chosen: Collection[str], labels: Sequence[str]) -> str:
    """A set of labels as text: in the order of the label list, with " + " between; "none" if it is empty."""
    return " + ".join(label for label in labels if label in chosen) or EMPTY_SET


def _column(name: str, kind: pa.DataType, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


_STEPS = pa.list_(pa.struct([_column(name, pa.float64(), nullable=True) for name in _DIMENSIONS]))
SCHEMA = pa.schema(
    [
        _column("benchmark", pa.string()),
        _column("model", pa.string()),
        _column("steering", pa.string()),
        _column("seed", pa.int64()),
        _column("id", pa.string()),
        _column("subset", pa.string()),
        _column("split", pa.string()),
        _column("label", pa.string()),
        _column("prediction", pa.string(), nullable=True),
        _column("correct", pa.bool_()),
        _column("unparsed_reason", pa.string(), nullable=True),
        _column("answer_text", pa.string(), nullable=True),
        *(_column(name, pa.list_(pa.float64()), nullable=True) for name in _DISTRIBUTIONS),
        _column("video", pa.string(), nullable=True),
        _column("text", pa.string(), nullable=True),
        _column("conflict", pa.float64(), nullable=True),
        _column("target", pa.string(), nullable=True),
        _column("attention_before", pa.list_(pa.float64()), nullable=True),
        _column("attention_after", pa.list_(pa.float64()), nullable=True),
        _column("labels", pa.list_(pa.string()), nullable=True),
        _column("predicted_labels", pa.list_(pa.string()), nullable=True),
        _column("score", pa.float64(), nullable=True),
        _column("predicted_score", pa.float64(), nullable=True),
        _column("series", _STEPS, nullable=True),
        _column("predicted_series", _STEPS, nullable=True),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PredictionRow:
    """What one model answered for one clip.

    Attributes:
        id: clip id, unique within (benchmark, model, steering, seed).
        subset: test subset, such as "consistent" or "video_aligned".
        split: dataset split the clip belongs to.
        label: true label.
        prediction: predicted label, or None where the answer could not be read.
        unparsed_reason: why there is no prediction; set exactly where ``prediction`` is None.
        answer_text: generated text, None where labels were scored without generating.
        distribution: ``[C]`` label probabilities, or None. They add up to 1, except where sets of labels are predicted:
            there each is the probability of its label alone.
        p_visual: ``[C]`` probabilities read from the face alone; None where absent or not computed.
        p_audio: ``[C]`` probabilities read from the voice alone; None where absent or not computed.
        p_text: ``[C]`` probabilities read from the transcript alone; None where absent or not computed.
        video: path of the clip's video, or None.
        text: transcript, or None.
        conflict: how much face and voice disagree, in [0, 1], as CHASE sees it; None without it or without both.
        target: the modality that CHASE steered to, "audio" or "visual"; None where it left attention alone.
        attention_before: shares of attention on audio, visual and other tokens, mean over layers, heads and the rows
            that a policy may edit; None where nothing was steered.
        attention_after: the same after the policy.
        labels: the true set of labels, perhaps empty; None where the task is another.
        predicted_labels: the predicted set.
        score: the true score, such as a sentiment; None where the task is another.
        predicted_score: the predicted score.
        series: ``[T]`` true valence and arousal per step, None where a step is not annotated; None where the task is
            another.
        predicted_series: ``[T]`` predicted valence and arousal, numbers at least where ``series`` has them.
        benchmark: name of the benchmark.
        model: "zero_shot", "tuned", or "imported" for predictions of others.
        steering: name of the steering policy, "none" without.
        seed: seed of the run.
    """

    id: str
    subset: str
    label: str
    prediction: str | None
    benchmark: str
    model: str
    split: str = "test"
    steering: str = "none"
    seed: int = 0
    unparsed_reason: str | None = None
    answer_text: str | None = None
    distribution: Sequence[float] | None = None
    p_visual: Sequence[float] | None = None
    p_audio: Sequence[float] | None = None
    p_text: Sequence[float] | None = None
    video: str | None = None
    text: str | None = None
    conflict: float | None = None
    target: str | None = None
    attention_before: Sequence[float] | None = None
    attention_after: Sequence[float] | None = None
    labels: Sequence[str] | None = None
    predicted_labels: Sequence[str] | None = None
    score: float | None = None
    predicted_score: float | None = None
    series: Series | None = None
    predicted_series: Series | None = None

    @property
    def kind(self) -> Kind:
        """What was to be predicted."""
        if self.labels is not None:
            return LABELS
        if self.series is not None:
            return SERIES
        return LABEL if self.score is None else SCORE

    @property
    def truth(self) -> tuple[object, ...]:
        """What is true of the clip, to be compared with another row's."""
        return self.label, _plain(self.labels), self.score, _plain(self.series)

    @property
    def answer(self) -> tuple[object, ...]:
        """What was predicted, to be compared with another row's."""
        return self.prediction, _plain(self.predicted_labels), self.predicted_score, _plain(self.predicted_series)

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label; derived, so that a row cannot contradict itself."""
        if self.labels is not None:  # text could be ambiguous: a label may be called "none"
            return self.predicted_labels is not None and set(self.predicted_labels) == set(self.labels)
        return self.prediction == self.label

    @property
    def credit(self) -> float:
        """How right the prediction is, in [0, 1]; its mean is the accuracy.

        1 or 0 for one label. For sets ``|Y & P| / |Y | P|``, and 0 where both are empty, as published: the mean is
        :func:`mosear.evaluation.metrics.sample_jaccard`.
        """
        if self.labels is None:
            return float(self.correct)
        if self.predicted_labels is None:
            return 0.0
        truth, found = set(self.labels), set(self.predicted_labels)
        return len(truth & found) / len(truth | found) if truth | found else 0.0

    @property
    def quarantined(self) -> bool:
        """Whether the clip could not be used, so that the model was never asked."""
        return (self.unparsed_reason or "").startswith(BAD_MEDIA)


def _plain(values: Sequence[object] | None) -> tuple[object, ...] | None:
    return None if values is None else tuple(values)


def kind_of(rows: Iterable[PredictionRow]) -> Kind:
    """The kind of all rows; ``label`` without any.

    Raises:
        ValueError: they are of several kinds.
    """
    kinds = dict.fromkeys(row.kind for row in rows)
    if len(kinds) > 1:
        raise ValueError(
            f"the predictions are of several kinds ({', '.join(kinds)}), which have no number in common. Keep the "
            "predictions of each task apart."
        )
    return next(iter(kinds), LABEL)


def _check(rows: Sequence[PredictionRow], labels: Sequence[str]) -> None:
    known = set(labels)
    if len(known) != len(labels):
        raise ValueError(f"labels must be unique, got {list(labels)}.")
    kind_of(rows)
    for row in rows:
        if problem := next(_problems(row, labels, known), None):
            raise ValueError(f"clip {row.id!r}: {problem}")
    counts = Counter((row.benchmark, row.model, row.steering, row.seed, row.id) for row in rows)
    twice = [key[-1] for key, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} clip ids occur more than once in a run, e.g. {twice[0]!r}; ids must be unique.")


def _problems(row: PredictionRow, labels: Sequence[str], known: Collection[str]) -> Iterator[str]:
    """What is wrong with a row."""
    unread = row.prediction is None
    if row.kind == LABELS:
        yield from _set_problems(row, labels, known)
    elif row.label not in known or (not unread and row.prediction not in known):
        yield (
            f"label {row.label!r} and prediction {row.prediction!r} must be in {list(labels)}; "
            "an answer outside the list is prediction=None with an unparsed_reason."
        )
    if unread != (row.unparsed_reason is not None):
        yield (
            f"prediction={row.prediction!r} with unparsed_reason={row.unparsed_reason!r}; "
            "give a reason exactly where there is no prediction."
        )
    for name in _DISTRIBUTIONS:
        values = getattr(row, name)
        if values is not None and len(values) != len(labels):
            yield f"{name} has {len(values)} values for {len(labels)} labels."
    for kind, column in _TRUTHS.items():
        given, needed = getattr(row, column) is not None, kind == row.kind and not unread
        if given != needed:
            yield (
                f"{column} is {getattr(row, column)!r} beside {kind}={getattr(row, kind)!r} and prediction="
                f"{row.prediction!r}; give it exactly where {kind} is the task and there is a prediction."
            )
    for name in ("score", "predicted_score"):
        if (value := getattr(row, name)) is not None and not math.isfinite(value):
            yield f"{name} is {value}; a score is a finite number, and an answer without one is prediction=None."
    if row.kind == SERIES:
        yield from _series_problems(row)


def _set_problems(row: PredictionRow, labels: Sequence[str], known: Collection[str]) -> Iterator[str]:
    for column, text in (("labels", row.label), ("predicted_labels", row.prediction)):
        chosen = getattr(row, column)
        if chosen is None:
            continue
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
            yield f"{column} are {list(chosen)}: they must be in {list(labels)}, each once."
        elif text is not None and text != joined(chosen, labels):
            yield f"{column} are {list(chosen)}, written {text!r}; write {joined(chosen, labels)!r}."


def _series_problems(row: PredictionRow) -> Iterator[str]:
    assert row.series is not None
    predicted = row.series if row.predicted_series is None else row.predicted_series
    if len(predicted) != len(row.series):
        yield f"predicted_series has {len(predicted)} steps for {len(row.series)} of series."
        return
    for step, (truth, found) in enumerate(zip(row.series, predicted, strict=True)):
        for name, true_value, value in zip(_DIMENSIONS, truth, found, strict=True):
            if any(number is not None and not math.isfinite(number) for number in (true_value, value)):
                yield f"step {step}: {name} is not finite; write None where a step is not annotated."
            elif true_value is not None and value is None:
                yield f"step {step}: {name} is annotated but not predicted; then all of it is prediction=None."


def _record(row: PredictionRow) -> dict[str, object]:
    record: dict[str, Any] = asdict(row) | {"correct": row.correct}
    for name in _DISTRIBUTIONS:
        if record[name] is not None:
            record[name] = [float(value) for value in record[name]]
    for name in ("score", "predicted_score"):
        if record[name] is not None:
            record[name] = float(record[name])
    for name in ("series", "predicted_series"):
        if record[name] is not None:
            record[name] = [dict(zip(_DIMENSIONS, step, strict=True)) for step in record[name]]
    return record


def _row(record: dict[str, Any]) -> PredictionRow:
    for name in ("series", "predicted_series"):
        if record.get(name) is not None:
            record[name] = [tuple(step[key] for key in _DIMENSIONS) for step in record[name]]
    return PredictionRow(**record)


def write_predictions(rows: Sequence[PredictionRow], labels: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Writes the rows atomically: the file is complete or not there.

    Raises:
        ValueError: if a row names a label outside ``labels``, lacks or has a needless ``unparsed_reason``, carries a
            distribution of the wrong length, or repeats a clip id within its run; if its columns belong to several
            kinds, or the rows do.
    """
    _check(rows, labels)
    schema = SCHEMA.with_metadata({_LABELS_KEY: json.dumps(list(labels)).encode()})
    table = pa.Table.from_pylist([_record(row) for row in rows], schema=schema)
    with written_atomically(path) as temporary:
        pq.write_table(table, temporary)


def read_predictions(path: str | os.PathLike[str]) -> tuple[list[PredictionRow], list[str]]:
    """Reads the rows and the label list; columns about steering, sets, scores and series may be absent.

    Raises:
        ValueError: if the file was not written by :func:`write_predictions`.
    """
    table = pq.read_table(path)
    metadata = table.schema.metadata or {}
    missing = [name for name in SCHEMA.names if name not in table.column_names and name not in _OPTIONAL]
    if _LABELS_KEY not in metadata or missing:
        raise ValueError(
            f"{path} is no predictions file: columns {missing} or the label list in its metadata are missing."
        )
    names = [field.name for field in fields(PredictionRow) if field.name in table.column_names]
    rows = [_row(record) for record in table.select(names).to_pylist()]
    return rows, json.loads(metadata[_LABELS_KEY])
