"""What a layout reads: clips with their features, split by split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mosear.data.clip import ModalityLabels


@dataclass(frozen=True)
class Item:
    """A clip as a layout has it.

    Attributes:
        id: unique over all splits.
        features: ``[T, D]``, or ``[D]`` for a whole utterance, by modality (``text``, ``audio``, ``video``), of true
            length, without padding. An absent modality has no key.
        text: the transcript.
        label: the emotion, as text or as index into the label names of the command line.
        labels: the emotions, for tasks with several.
        score: sentiment or valence.
        modality_labels: what each modality shows on its own.
        series: valence and arousal over time, see :mod:`mosear.data.series`.
        speaker: speaker id.
        subset: evaluation subset.
        context: earlier utterances of the dialogue, oldest first.
    """

    id: str
    features: Mapping[str, np.ndarray]
    text: str | None = None
    label: str | int | None = None
    labels: tuple[str, ...] = ()
    score: float | None = None
    modality_labels: ModalityLabels = field(default_factory=ModalityLabels)
    series: str | None = None
    speaker: str | None = None
    subset: str = "all"
    context: tuple[str, ...] = ()


@dataclass
class Reading:
    """What a layout found.

    Attributes:
        splits: the clips of ``train``, ``val`` and ``test`` (any of them), read one by one.
        counts: how many clips each split has.
        sources: the files that were read.
        notes: what the user should know about this copy.
        own_validation: whether the layout has no validation set and the reader made one of training clips.
    """

    splits: dict[str, Iterable[Item]]
    counts: dict[str, int]
    sources: list[Path]
    notes: list[str] = field(default_factory=list)
    own_validation: bool = False
