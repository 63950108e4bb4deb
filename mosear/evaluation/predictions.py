"""``predictions.parquet``: one row per clip and model, with everything needed to score the run again.

The label list, which orders every distribution, travels in the schema metadata of the file.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq

from mosear.files import written_atomically

BAD_MEDIA = "bad media: "
"""Begins the ``unparsed_reason`` of a clip that was never asked about; its cause follows."""

_LABELS_KEY = b"mosear.labels"
_DISTRIBUTIONS = ("distribution", "p_visual", "p_audio", "p_text")
_OPTIONAL = ("conflict", "target", "attention_before", "attention_after")


def _column(name: str, kind: pa.DataType, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


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
        distribution: ``[C]`` label probabilities, or None.
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

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label; derived, so that a row cannot contradict itself."""
        return self.prediction == self.label

    @property
    def quarantined(self) -> bool:
        """Whether the clip could not be used, so that the model was never asked."""
        return (self.unparsed_reason or "").startswith(BAD_MEDIA)


def _check(rows: Sequence[PredictionRow], labels: Sequence[str]) -> None:
    known = set(labels)
    if len(known) != len(labels):
        raise ValueError(f"labels must be unique, got {list(labels)}.")
    for row in rows:
        if row.label not in known or (row.prediction is not None and row.prediction not in known):
            raise ValueError(
                f"clip {row.id!r}: label {row.label!r} and prediction {row.prediction!r} must be in {list(labels)}; "
                "an answer outside the list is prediction=None with an unparsed_reason."
            )
        if (row.prediction is None) != (row.unparsed_reason is not None):
            raise ValueError(
                f"clip {row.id!r}: prediction={row.prediction!r} with unparsed_reason={row.unparsed_reason!r}; "
                "give a reason exactly where there is no prediction."
            )
        for name in _DISTRIBUTIONS:
            values = getattr(row, name)
            if values is not None and len(values) != len(labels):
                raise ValueError(f"clip {row.id!r}: {name} has {len(values)} values for {len(labels)} labels.")
    counts = Counter((row.benchmark, row.model, row.steering, row.seed, row.id) for row in rows)
    twice = [key[-1] for key, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} clip ids occur more than once in a run, e.g. {twice[0]!r}; ids must be unique.")


def _record(row: PredictionRow) -> dict[str, object]:
    record = asdict(row) | {"correct": row.correct}
    for name in _DISTRIBUTIONS:
        if record[name] is not None:
            record[name] = [float(value) for value in record[name]]
    return record


def write_predictions(rows: Sequence[PredictionRow], labels: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Writes the rows atomically: the file is complete or not there.

    Raises:
        ValueError: if a row names a label outside ``labels``, lacks or has a needless ``unparsed_reason``, carries a
            distribution of the wrong length, or repeats a clip id within its run.
    """
    _check(rows, labels)
    schema = SCHEMA.with_metadata({_LABELS_KEY: json.dumps(list(labels)).encode()})
    table = pa.Table.from_pylist([_record(row) for row in rows], schema=schema)
    with written_atomically(path) as temporary:
        pq.write_table(table, temporary)


def read_predictions(path: str | os.PathLike[str]) -> tuple[list[PredictionRow], list[str]]:
    """Reads the rows and the label list; the columns about steering may be absent.

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
    rows = [PredictionRow(**record) for record in table.select(names).to_pylist()]
    return rows, json.loads(metadata[_LABELS_KEY])
