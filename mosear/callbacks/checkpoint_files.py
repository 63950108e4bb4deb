"""Checkpoint directories on disk: written aside, hashed, renamed last, verified before use.

    checkpoints/step-000120/
      state.ckpt      loops, trainable weights, optimiser, schedule, callbacks (a directory under DeepSpeed)
      rank-0.pt       of each process: random generators, position in the data, what its teacher has read
      metrics.csv     the CSV log up to here, if there is one
      COMPLETE        JSON: format, step, processes, settings, and size and SHA-256 of every other file

A directory without ``COMPLETE`` was never finished and is ignored. What interrupted writes and deletions have left is
swept away when the next checkpoint is begun; only one run may write to a directory (:mod:`mosear.runtime.lock`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mosear.files import sha256_of

FORMAT = 1
COMPLETE, STATE, CSV_LOG = "COMPLETE", "state.ckpt", "metrics.csv"
STAGING, PREFIX = ".tmp-", "step-"
DELETED = f"{STAGING}old-"
_RANK_FILE = re.compile(r"rank-\d+\.pt")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or cannot be used, and why."""


@dataclass(frozen=True)
class Note:
    """What ``COMPLETE`` says about a checkpoint.

    Attributes:
        step: optimiser steps done.
        world_size: processes that wrote it.
        finished: training was over.
        settings: what must be the same when it is resumed, by dotted config key.
        data: fingerprint of the training clips.
        libraries: versions that wrote it.
        files: relative path to ``{"bytes": .., "sha256": ..}``.
    """

    step: int
    world_size: int
    finished: bool
    settings: Mapping[str, Any]
    data: str
    libraries: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]


def directory_name(step: int) -> str:
    """``step-000120``."""
    return f"{PREFIX}{step:06d}"


def rank_file(rank: int) -> str:
    """Where a process keeps what is its own."""
    return f"rank-{rank}.pt"


def begin(root: Path, step: int) -> Path:
    """An empty staging directory; what interrupted writes have left behind is swept away."""
    for left in (*root.glob(f"{STAGING}*"), *filter(_half_deleted, root.glob(f"{PREFIX}*"))):
        shutil.rmtree(left, ignore_errors=True)
    staging = root / f"{STAGING}{directory_name(step)}"
    staging.mkdir(parents=True)
    return staging


def commit(staging: Path, **about: Any) -> Path:
    """Hash, flush to the disk, and rename into place.

    Args:
        staging: what :func:`begin` gave, filled by now.
        about: the fields of :class:`Note` but ``files``.

    Returns:
        The finished checkpoint.
    """
    files = {name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for name, path in _content(staging)}
    note = {"format": FORMAT, **asdict(Note(**about, files=files))}
    with (staging / COMPLETE).open("w", encoding="utf-8") as file:
        json.dump(note, file, indent=1)
    for path in (*(path for _, path in _content(staging)), staging / COMPLETE):
        flush_to_disk(path)
    for folder, _, _ in os.walk(staging):
        flush_to_disk(Path(folder))
    target = staging.with_name(staging.name.removeprefix(STAGING))
    remove(target)
    os.replace(staging, target)
    flush_to_disk(target.parent)
    return target


def flush_to_disk(path: Path) -> None:
    """Force a file's or a directory's content out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(directory: Path) -> None:
    """Delete a checkpoint. It is renamed first: what an interrupted deletion leaves is swept like any staging."""
    if not directory.is_dir():
        return
    aside = directory.with_name(f"{DELETED}{directory.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(directory, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _half_deleted(directory: Path) -> bool:
    """Whether earlier versions were interrupted in deleting it: no marker, and nothing that a checkpoint has not."""
    if not directory.name.removeprefix(PREFIX).isdigit() or not directory.is_dir():
        return False
    names = {path.name for path in directory.iterdir()}
    return all(name in (STATE, CSV_LOG) or _RANK_FILE.fullmatch(name) for name in names)


def complete(root: Path) -> list[Path]:
    """The finished checkpoints below ``root``, the newest last."""
    steps = {}
    for path in root.glob(f"{PREFIX}*"):
        number = path.name.removeprefix(PREFIX)
        if number.isdigit() and (path / COMPLETE).is_file():
            steps[int(number)] = path
    return [steps[step] for step in sorted(steps)]


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest ``keep``."""
    for path in complete(root)[:-keep]:
        remove(path)


def read_note(directory: Path) -> Note:
    """What a checkpoint says about itself; nothing else of it is read.

    Raises:
        CheckpointError: if it is torn, foreign, or of another format.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory} is not a checkpoint directory. Give one of the step-* directories in a run's checkpoints/, "
            "or resume=auto for the newest of the run directory."
        )
    path = directory / COMPLETE
    if not path.is_file():
        raise CheckpointError(
            f"{directory} has no {COMPLETE} marker: it was written by another program, or its writing was interrupted. "
            "Use an older one; resume=auto finds the newest complete one."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found.pop("format")
        if version == FORMAT:
            return Note(**found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the marker of a mosear checkpoint ({error}). Use another one.") from error
    raise CheckpointError(
        f"{directory} has checkpoint format {version}, and this version of mosear reads format {FORMAT}. Resume with "
        "the version that wrote it, or start a new run."
    )


def verify(directory: Path, note: Note) -> None:
    """Compare every file with its size and hash.

    Raises:
        CheckpointError: naming the first file that differs.
    """
    for name, expected in note.files.items():
        path = directory / name
        if not path.is_file():
            trouble = "is missing"
        elif (size := path.stat().st_size) != expected["bytes"]:
            trouble = f"has {size} bytes instead of {expected['bytes']}"
        elif sha256_of(path) != expected["sha256"]:
            trouble = "has another SHA-256 than when it was written"
        else:
            continue
        raise CheckpointError(f"{path} {trouble}. Delete {directory} and start again: an older checkpoint is used.")


def _content(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / COMPLETE:
            yield path.relative_to(directory).as_posix(), path
