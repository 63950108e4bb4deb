"""The row schema that everything after an importer works with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mosear.data.series import Annotations, check_series, read_series
from mosear.roles import MODALITIES


@dataclass(frozen=True)
class ModalityLabels:
    """The emotion each modality shows on its own, where known. Used to group and analyse clips; no method trains
    on it, unless a reward asks for it."""

    visual: str | None = None
    audio: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        _check_optional_text(self, "visual", "audio", "text")

    @property
    def conflict(self) -> bool:
        """Whether face and voice have labels, and these differ."""
        return None not in (self.visual, self.audio) and self.visual != self.audio


@dataclass(frozen=True)
class Clip:
    """One utterance: where its media is and what is known about it.

    Attributes:
        id: Unique in its manifest.
        video: Path of the video file, relative to the manifest's root.
        audio: Path of the sound file, or ``"video"`` for the audio track of ``video``.
        text: Transcript; a blank one is none.
        label: The emotion, for tasks with one.
        labels: The emotions, for tasks with several.
        score: Sentiment or valence.
        modality_labels: What each modality shows on its own.
        subset: Evaluation subset, such as ``consistent`` or ``audio_aligned``.
        split: ``train``, ``val`` or ``test``.
        context: Earlier utterances of the dialogue, oldest first.
        speaker: Speaker id.
        missing: Modalities taken away on purpose, for analysis; their fields are null. (To keep the sound of a video
            file and drop its picture, put the file's path in ``audio``.)
        reason: Reference reasoning: what face, voice and words do, without the label.
        cues: The phrases of the reason as a JSON object with keys ``video``, ``audio`` and ``text`` (any of them), each
            a list of phrases; see :attr:`cue_phrases`.
        series: Valence and arousal over time as a JSON object ``{"rate": 5.0, "valence": [..], "arousal": [..]}``:
            steps per second, and as many values in [-1, 1] each, null where annotators gave none; see
            :attr:`annotations`.
    """

    id: str
    video: str | None = None
    audio: str | None = None
    text: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    score: float | None = None
    modality_labels: ModalityLabels = field(default_factory=ModalityLabels)
    subset: str = "all"
    split: str = "test"
    context: tuple[str, ...] = ()
    speaker: str | None = None
    missing: tuple[str, ...] = ()
    reason: str | None = None
    cues: str | None = None
    series: str | None = None

    def __post_init__(self) -> None:
        _check_text(self, "id", "subset", "split")
        _check_optional_text(self, "video", "audio", "text", "label", "speaker", "reason", "cues", "series")
        read_cues(self.cues)
        if self.series is not None:
            check_series(self.series)
        for name in ("labels", "context", "missing"):
            _check_texts(name, getattr(self, name))
        if self.score is not None and not (_is_number(self.score) and math.isfinite(self.score)):
            raise ValueError(f"score must be a finite number or null, got {self.score!r}")
        if not isinstance(self.modality_labels, ModalityLabels):
            raise ValueError(f"modality_labels must be a ModalityLabels, got {self.modality_labels!r}")
        for name in ("video", "audio"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is an empty string: use null for no {name}")
        if self.audio == "video" and self.video is None:
            raise ValueError(
                'audio is "video" (the track of the video file) but video is null: put the file in one of them'
            )
        if self.text is not None and not self.text.strip():
            object.__setattr__(self, "text", None)
        self._check_missing()

    def _check_missing(self) -> None:
        unknown = sorted(set(self.missing) - set(MODALITIES))
        if unknown:
            raise ValueError(f"missing names {', '.join(map(repr, unknown))}; it may hold {', '.join(MODALITIES)}")
        # A modality that is both named and "missing" would reach the model through any code that reads the field alone.
        for name in sorted(set(self.missing) & set(self.present)):
            hint = " (for the sound of a video file alone, put its path in audio)" if name == "video" else ""
            raise ValueError(f"missing lists {name!r} but {name} is set: make it null{hint}")
        if not self.present:
            raise ValueError("no modality is present: give video, audio or a non-blank text")

    @property
    def present(self) -> tuple[str, ...]:
        """The modalities that the clip has."""
        given = {"video": self.video, "audio": self.audio, "text": self.text}
        return tuple(name for name in MODALITIES if given[name] is not None)

    @property
    def cue_phrases(self) -> dict[str, list[str]]:
        """The phrases of :attr:`cues` by modality; empty lists where there are none."""
        return read_cues(self.cues)

    @property
    def annotations(self) -> Annotations | None:
        """Rate and values ``[T, 2]`` of :attr:`series`, NaN where annotators gave none; ``None`` without a series."""
        return read_series(self.series)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Clip:
        """Builds a clip from a manifest row, which has keys of `COLUMNS`; those that are not `REQUIRED` may lack.

        Raises:
            ValueError: A required key is missing, a key is unknown, or a value is not allowed.
        """
        problem = describe_columns(row)
        if problem:
            raise ValueError(problem)
        values: dict[str, Any] = {**dict.fromkeys(COLUMNS), **row}
        for name in ("labels", "context", "missing"):
            if isinstance(values[name], list | tuple):
                values[name] = tuple(values[name])
            elif values[name] is None:
                values[name] = ()
        values["modality_labels"] = _modality_labels(values["modality_labels"])
        if _is_number(values["score"]):
            values["score"] = float(values["score"])
        return cls(**values)

    def to_row(self) -> dict[str, Any]:
        """The manifest row: plain strings, numbers, lists and one dict, so that it can be written as JSON."""
        row = {name: getattr(self, name) for name in COLUMNS}
        for name in ("labels", "context", "missing"):
            row[name] = list(row[name])
        row["modality_labels"] = {f.name: getattr(self.modality_labels, f.name) for f in fields(ModalityLabels)}
        return row


COLUMNS: tuple[str, ...] = tuple(column.name for column in fields(Clip))


REQUIRED = ("id", "subset", "split")
"""Columns that a manifest must have; one without another column has null in it."""


def describe_columns(found: Mapping[str, Any] | list[str]) -> str | None:
    """Says which manifest columns are missing from, or unknown in, ``found``; None if it can be read."""
    missing = [name for name in REQUIRED if name not in found]
    unknown = sorted(name for name in found if name not in COLUMNS)
    if not missing and not unknown:
        return None
    named = (("missing", missing), ("unknown", unknown))
    parts = [f"{kind} columns {', '.join(names)}" for kind, names in named if names]
    return f"{' and '.join(parts)} (expected {', '.join(COLUMNS)}; found {', '.join(found) or 'none'})"


def read_cues(cues: str | None) -> dict[str, list[str]]:
    """Phrases by modality from a value of the column ``cues``.

    Raises:
        ValueError: It is not a JSON object of lists of strings with keys among ``video``, ``audio`` and ``text``.
    """
    if cues is None:
        return {name: [] for name in MODALITIES}
    try:
        found = json.loads(cues)
    except json.JSONDecodeError as error:
        raise ValueError(f"cues must be a JSON object of phrases by modality, got {cues!r:.80} ({error})") from None
    right = isinstance(found, dict) and set(found) <= set(MODALITIES)
    if not right or not all(isinstance(v, list) and all(isinstance(p, str) for p in v) for v in found.values()):
        raise ValueError(
            f"cues must be a JSON object with lists of phrases under {', '.join(MODALITIES)} (any of them), "
            f"got {cues!r:.80}"
        )
    return {name: found.get(name, []) for name in MODALITIES}


def reason_text(cues: Mapping[str, Sequence[str]]) -> str:
    """Phrases by modality as one text: commas within a modality, semicolons between."""
    parts = (", ".join(cues.get(modality, ())) for modality in MODALITIES)
    return "; ".join(part for part in parts if part)


def _modality_labels(value: Any) -> ModalityLabels:
    if value is None:
        return ModalityLabels()
    names = [f.name for f in fields(ModalityLabels)]
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise ValueError(f"modality_labels must have exactly the keys {', '.join(names)}, got {value!r}")
    return ModalityLabels(**value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_text(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} must be a non-empty string, got {value!r}")


def _check_optional_text(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} must be a string or null, got {value!r}")


def _check_texts(name: str, values: Any) -> None:
    if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} must be a list of strings, got {values!r}")
