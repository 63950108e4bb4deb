"""Whom a model follows where face and voice disagree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FACE, VOICE, NEITHER, UNREAD = 0, 1, 2, 3
SIDES = ("face", "voice", "neither", "unread")


def sides(said: Sequence[str | None], visual: Sequence[str], audio: Sequence[str]) -> npt.NDArray[np.int64]:
    """Per conflict, with which modality's label the answer agrees: an index of :data:`SIDES`.

    Args:
        said: ``[N]`` answers, None where there is none that can be read.
        visual: ``[N]`` labels that the faces show on their own.
        audio: ``[N]`` labels that the voices carry on their own.

    Raises:
        ValueError: if the lengths differ, or the two labels of a clip are the same.
    """
    if not len(said) == len(visual) == len(audio):
        raise ValueError(f"got {len(said)} answers for {len(visual)} visual and {len(audio)} audio labels.")
    if same := [v for v, a in zip(visual, audio, strict=True) if v == a]:
        raise ValueError(f"{len(same)} clips are no conflicts: face and voice both say {same[0]!r}.")
    found = [
        UNREAD if y is None else FACE if y == v else VOICE if y == a else NEITHER
        for y, v, a in zip(said, visual, audio, strict=True)
    ]
    return np.array(found, dtype=np.int64)


def direction_index(face: npt.ArrayLike, voice: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """``D = (F - V) / (F + V)``: 1 always the face, -1 always the voice, 0 as often one as the other.

    Answers that name neither label do not count. ``(1 - D) / 2`` is the share of the others that follow the voice.

    Args:
        face: counts of answers with the face's label, of any shape.
        voice: counts of answers with the voice's label.

    Returns:
        The index elementwise; NaN where both counts are 0.
    """
    f, v = np.asarray(face, dtype=np.float64), np.asarray(voice, dtype=np.float64)
    total = f + v
    index: npt.NDArray[np.float64] = np.divide(f - v, total, out=np.full(total.shape, np.nan), where=total > 0)
    return index
