"""Features of a whole split in one file, so that the next run reads it at once.

A file's name is a hash of the feature cache's key space (tower weights, processor, budgets, dtype, versions), of what
is done to the towers' output, and of every clip of the split with the size and time of its media files. A file that is
torn or damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mosear.data.clip import Clip
from mosear.data.manifest import Manifest
from mosear.files import os_errors, written_atomically
from mosear.fusion.source import Features

log = logging.getLogger(__name__)

FORMAT = 1


def table_name(fingerprint: str, options: Mapping[str, object], manifest: Manifest) -> str:
    """Of the file that holds a split's features.

    Args:
        fingerprint: of the key space of the tower outputs.
        options: what is done to them.
        manifest: clips of the split.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, fingerprint, dict(options)], sort_keys=True).encode())
    for clip in manifest:
        digest.update(json.dumps([clip.id, clip.text, *map(state_of, manifest.resolve(clip))]).encode())
    return digest.hexdigest()


def state_of(source: Path | str | None) -> list[object]:
    """Path, size and time of a media file; what is not a file as it is."""
    if not isinstance(source, Path):
        return [source]
    try:
        found = source.stat()
    except OSError:
        return [str(source), None]
    return [str(source), found.st_size, found.st_mtime_ns]


def kept(
    path: Path | None, clips: Sequence[Clip], widths: Mapping[str, int], make: Callable[[], Mapping[str, Features]]
) -> Mapping[str, Features]:
    """Features by clip id from the file, or from ``make`` and then written to it.

    Args:
        path: of the file; ``None`` = none is read or written.
        clips: of the split.
        widths: of the features by modality.
        make: reads or computes them; a clip with bad media is not among them, and then nothing is written.
    """
    if path is not None and path.is_file() and (found := read(path, clips, widths)) is not None:
        return found
    made = make()
    if path is not None and len(made) == len(clips):
        path.parent.mkdir(parents=True, exist_ok=True)
        with os_errors(path), written_atomically(path) as temporary:
            save_file(packed([made[clip.id] for clip in clips], widths), temporary)
    return made


def packed(rows: Sequence[Features], widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """All steps of a modality below each other, and how many of them each clip has (-1: it lacks the modality)."""
    tensors = {}
    for name, width in widths.items():
        own = [row[name] for row in rows if name in row]
        tensors[f"{name}.steps"] = np.array([len(row[name]) if name in row else -1 for row in rows], dtype=np.int64)
        tensors[name] = np.concatenate(own) if own else np.zeros((0, width), dtype=np.float32)
    return tensors


def read(path: Path, clips: Sequence[Clip], widths: Mapping[str, int]) -> dict[str, Features] | None:
    """Features by clip id; ``None`` if the file does not fit."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be read (%s); it is made again.", path, error)
        return None
    found: dict[str, dict[str, np.ndarray]] = {clip.id: {} for clip in clips}
    for name, width in widths.items():
        values, steps = tensors.get(name), tensors.get(f"{name}.steps")
        if values is None or steps is None or len(steps) != len(clips) or values.shape != (steps.clip(0).sum(), width):
            log.warning("%s does not hold the %s features of these clips; it is made again.", path, name)
            return None
        ends = steps.clip(0).cumsum()
        for clip, end, count in zip(clips, ends, steps, strict=True):
            if count >= 0:
                found[clip.id][name] = values[end - count : end]
    return dict(found)
