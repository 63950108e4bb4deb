"""Answers to conflicts from the predictions of runs that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mosear.data.clip import Clip
from mosear.data.rows import read_rows
from mosear.evaluation.bias import Conflict, conflicts
from mosear.evaluation.predictions import LABELS, PredictionRow, kind_of
from mosear.evaluation.runs import RunFiles


@dataclass(frozen=True)
class Answered:
    """What one system answered.

    Attributes:
        name: of the system.
        labels: the label list.
        found: its conflicts.
    """

    name: str
    labels: Sequence[str]
    found: Sequence[Conflict]


def of_run(directory: Path, manifest: Path | None = None) -> list[Answered]:
    """Every model of a finished run, from its predictions; nothing is computed again.

    Args:
        directory: of the run.
        manifest: of its test clips, if it is no longer where the run's config says.

    Raises:
        ValueError: if it is no finished run, predicts sets of labels, or its clips cannot be found.
    """
    files = RunFiles(directory)
    rows, labels = files.predictions
    if kind_of(rows) == LABELS:
        raise ValueError(
            f"{directory} predicts sets of labels: whom a model follows is told by single labels. Give a run that "
            "answers with one label per clip."
        )
    path = manifest or files.manifest
    if path is None:
        raise ValueError(
            f"The manifest of {directory} is no longer where its config says; it has the labels of face and voice. "
            "Give it: --manifest FILE."
        )
    clips = {clip.id: clip for clip in (Clip.from_row(row) for _, row in read_rows(path))}
    if unknown := list(dict.fromkeys(row.id for row in rows if row.id not in clips)):
        raise ValueError(
            f"{path} lacks {len(unknown)} clips of {directory}, such as {unknown[0]!r}: give its manifest."
        )
    models: dict[tuple[str, str], list[PredictionRow]] = {}
    for row in rows:
        models.setdefault((row.model, row.steering), []).append(row)
    name = files.experiment
    return [
        Answered(
            f"{name}, {model.replace('_', '-')}" + ("" if steering == "none" else f" + {steering}"),
            labels,
            conflicts(own, clips),
        )
        for (model, steering), own in models.items()
    ]
