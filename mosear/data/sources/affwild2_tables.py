"""Aff-Wild2's annotations of valence and arousal, one text file per video or per person in it."""

from __future__ import annotations

from pathlib import Path

from mosear.data.sources.base import LayoutError
from mosear.data.sources.files import find_directory
from mosear.data.sources.tables import number, read_text

IGNORED = -5.0
"""A frame without annotation."""
SETS = ("Train_Set", "Validation_Set")
PERSONS = ("_left", "_right")
"""Suffixes where two people are in a video."""


def annotation_files(root: Path, layout: str) -> dict[str, list[Path]]:
    """The files of the two published sets, sorted by name.

    Raises:
        LayoutError: One of the directories is not there, or holds no text file.
    """
    challenge = find_directory(root, "VA_Estimation_Challenge", layout=layout)
    found = {}
    for name in SETS:
        directory = find_directory(challenge, name, layout=layout)
        found[name] = sorted(path for path in directory.glob("*.txt") if not path.name.startswith("."))
        if not found[name]:
            raise LayoutError(f"{directory} holds no .txt files")
    return found


def video_name(annotation: str) -> str:
    """The video that an annotation is about: its name without the person."""
    for suffix in PERSONS:
        annotation = annotation.removesuffix(suffix)
    return annotation


def read_annotation(path: Path) -> list[tuple[float | None, float | None]]:
    """Valence and arousal of each frame; None for both where -5 stands for one of them.

    Raises:
        LayoutError: There is no header ``valence,arousal``, or a line is no pair of numbers in -1..1.
    """
    lines = read_text(path).split("\n")
    if lines[0].strip().replace(" ", "") != "valence,arousal":
        raise LayoutError(f"{path}: the first line is {lines[0]!r:.40}, not valence,arousal")
    found: list[tuple[float | None, float | None]] = []
    for place, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        where = f"{path}, line {place}"
        values = [number(cell, where) for cell in line.split(",")]
        if len(values) != 2 or any(value is None for value in values):
            raise LayoutError(f"{where}: {line!r:.40} is no pair of numbers")
        valence, arousal = values
        if IGNORED in values:
            found.append((None, None))
        elif valence is None or arousal is None or not (-1 <= valence <= 1 and -1 <= arousal <= 1):
            raise LayoutError(f"{where}: {line!r:.40} is not in -1..1, nor {IGNORED:g} for no annotation")
        else:
            found.append((valence, arousal))
    if not found:
        raise LayoutError(f"{path} annotates no frame")
    return found
