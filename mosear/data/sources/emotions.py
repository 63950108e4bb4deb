"""CMU-MOSEI's six emotions as label sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mosear.data.sources.base import LayoutError
from mosear.data.sources.tables import number, read_table

EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
"""In the order of ``CMU_MOSEI_Labels.csd`` (behind the sentiment)."""


def emotions_of(row: Mapping[str, str], where: str) -> tuple[str, ...]:
    """The emotions of a row whose intensity, 0 to 3, is above 0.

    Raises:
        LayoutError: An intensity is missing, or no number in 0..3.
    """
    found = []
    for name in EMOTIONS:
        intensity = number(row[name], where)
        if intensity is None or not 0 <= intensity <= 3:
            raise LayoutError(f"{where}: {name} is {row[name]!r}, not an intensity in 0..3")
        if intensity > 0:
            found.append(name)
    return tuple(found)


def read_emotions(path: Path, keys: Sequence[str] = ("video_id", "clip_id")) -> dict[str, tuple[str, ...]]:
    """``"video/clip"`` -> its emotions, from a table with a column per emotion.

    Raises:
        LayoutError: A column is missing, or a clip has two rows.
    """
    found: dict[str, tuple[str, ...]] = {}
    for row in read_table(path, (*keys, *EMOTIONS)):
        clip = "/".join(row[key].strip() for key in keys)
        if clip in found:
            raise LayoutError(f"{path}: the clip {clip} has two rows")
        found[clip] = emotions_of(row, f"{path}, {clip}")
    return found
