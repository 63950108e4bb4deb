"""Writes what a layout read as a :class:`~mosear.features.store.FeatureStore`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import mosear
from mosear.data.clip import Clip
from mosear.data.manifest import write_manifest
from mosear.features.items import Item, Reading
from mosear.features.store import FILE, FORMAT, MODALITIES, SPLITS
from mosear.files import replaced, sha256_of

MOST_FILES_LISTED = 16


def write_store(
    directory: Path,
    reading: Reading,
    layout: str,
    *,
    labels: Sequence[str] = (),
    overwrite: bool = False,
    check: Callable[[dict[str, Any]], None] = lambda about: None,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Writes all splits; the directory appears whole or not at all.

    Args:
        directory: where to.
        reading: what the layout found.
        layout: its name.
        labels: names of class indices.
        overwrite: replace features that are there.
        check: gets the content of ``features.json`` before anything appears, and may raise.
        advance: called after every clip.

    Returns:
        The content of ``features.json``.

    Raises:
        ValueError: The directory exists, or an item is not as it must be.
    """
    check_target(directory, overwrite)
    about: dict[str, Any] = {"format": FORMAT, "mosear": mosear.__version__, "layout": layout, "modalities": {}}
    about["splits"] = {}
    seen: dict[str, str] = {}
    with replaced(directory) as staging:
        for split in SPLITS:
            if split in reading.splits:
                writer = _SplitWriter(split, labels, about["modalities"], seen)
                about["splits"][split] = writer.write(reading.splits[split], staging, advance)
        about["modalities"] = {name: about["modalities"][name] for name in MODALITIES if name in about["modalities"]}
        for kind in ("labels", "label_sets"):
            about[kind] = sorted({name for split in about["splits"].values() for name in split[kind]})
        about["labels"] = list(labels) or about["labels"]
        about["own_validation"], about["notes"] = reading.own_validation, reading.notes
        check(about)
        about["sources"] = describe_sources(reading.sources)
        (staging / FILE).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
    return about


def check_target(directory: Path, overwrite: bool) -> None:
    """Raises a `ValueError` where features must not be written."""
    if not directory.exists():
        return
    if not directory.is_dir() or not ((directory / FILE).is_file() or not any(directory.iterdir())):
        raise ValueError(f"--out {directory} is there and holds no features; name a directory that is not there")
    if (directory / FILE).is_file() and not overwrite:
        raise ValueError(f"--out {directory} holds features already; --overwrite replaces them")


def describe_sources(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file; of many files, one line with a SHA-256 over names and hashes."""
    files = sorted(paths)
    hashes = [(path, path.stat().st_size, sha256_of(path)) for path in files]
    if len(files) <= MOST_FILES_LISTED:
        return [{"name": path.name, "bytes": size, "sha256": digest} for path, size, digest in hashes]
    whole = hashlib.sha256()
    for path, _, digest in hashes:
        whole.update(f"{path.name} {digest}\n".encode())
    total = sum(size for _, size, _ in hashes)
    return [{"name": f"{len(files):,} files", "bytes": total, "sha256": whole.hexdigest()}]


class _SplitWriter:
    """Collects a split.

    Args:
        split: its name.
        labels: names of class indices.
        dimensions: by modality, filled here.
        seen: id -> split, of all splits so far, filled here.
    """

    def __init__(self, split: str, labels: Sequence[str], dimensions: dict[str, int], seen: dict[str, str]) -> None:
        self.split, self.labels, self.dimensions, self.seen = split, labels, dimensions, seen
        self.clips: list[Clip] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.lengths: dict[str, list[int]] = {name: [] for name in MODALITIES}
        self.replaced: Counter[str] = Counter()

    def write(self, items: Iterable[Item], directory: Path, advance: Callable[[], object]) -> dict[str, Any]:
        """Writes manifest and features; returns what ``features.json`` says about them."""
        for item in items:
            try:
                self._add(item)
            except ValueError as error:
                raise ValueError(f"{self.split}, clip {item.id!r}: {error}") from None
            advance()
        if not self.clips:
            raise ValueError(f"the split {self.split} has no clips")
        write_manifest(self.clips, directory / f"{self.split}.parquet")
        save_file(self.tensors, directory / f"{self.split}.safetensors")
        return {
            "clips": len(self.clips),
            "lengths": {name: _summary(found) for name, found in self.lengths.items() if any(found)},
            "replaced": dict(self.replaced),
            "labels": _counted(clip.label for clip in self.clips if clip.label is not None),
            "label_sets": _counted(label for clip in self.clips for label in clip.labels),
            "with": {
                field: sum(getattr(clip, field) not in (None, ()) for clip in self.clips)
                for field in ("text", "label", "labels", "score", "series", "speaker")
            },
        }

    def _add(self, item: Item) -> None:
        if self.seen.setdefault(item.id, self.split) != self.split:
            raise ValueError(f"the split {self.seen[item.id]} has a clip of this name too")
        if unknown := sorted(set(item.features) - set(MODALITIES)):
            raise ValueError(f"unknown modalities {', '.join(unknown)}; there are {', '.join(MODALITIES)}")
        row = len(self.clips)
        present = set()
        for name in MODALITIES:
            values = self._steps(name, item.features[name]) if name in item.features else None
            self.lengths[name].append(0 if values is None else len(values))
            if values is not None and len(values):
                self.tensors[f"{row}/{name}"] = values
                present.add(name)
        file = f"{self.split}.safetensors"
        clip = Clip(
            id=item.id,
            video=file if "video" in present else None,
            audio=file if "audio" in present else None,
            text=item.text,
            label=self._label(item.label),
            labels=item.labels,
            score=item.score,
            modality_labels=item.modality_labels,
            subset=item.subset,
            split=self.split,
            context=item.context,
            speaker=item.speaker,
            series=item.series,
        )
        self.clips.append(clip)

    def _steps(self, name: str, values: Any) -> np.ndarray:
        """float32 ``[T, D]`` with zeros for what is not finite."""
        try:
            with np.errstate(over="ignore"):
                steps = np.array(values, dtype=np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"{name} does not hold numbers of one shape") from None
        if steps.ndim == 1:
            steps = steps[None]
        if steps.ndim != 2:
            raise ValueError(f"{name} has the shape {list(steps.shape)}; a sequence has [steps, size]")
        if len(steps) and self.dimensions.setdefault(name, steps.shape[1]) != steps.shape[1]:
            raise ValueError(
                f"{name} has {steps.shape[1]} numbers per step, earlier clips have {self.dimensions[name]}"
            )
        wrong = ~np.isfinite(steps)
        if count := int(wrong.sum()):
            steps[wrong] = 0.0
            self.replaced[name] += count
        return steps

    def _label(self, label: str | int | None) -> str | None:
        if label is None or isinstance(label, str):
            if label is not None and self.labels and label not in self.labels:
                raise ValueError(f"the label {label!r} is not one of --labels {','.join(self.labels)}")
            return label
        if not self.labels:
            return str(label)
        if not 0 <= label < len(self.labels):
            raise ValueError(f"the class {label} has no name; --labels names {len(self.labels)}, from 0")
        return self.labels[label]


def _counted(labels: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(labels).items()))


def _summary(lengths: Sequence[int]) -> dict[str, int]:
    present = [length for length in lengths if length]
    shortest, median, longest = (int(v) for v in np.percentile(present, (0, 50, 100), method="nearest"))
    return {"shortest": shortest, "median": median, "longest": longest, "absent": len(lengths) - len(present)}
