"""MMSA's pickles (``aligned_50.pkl``, ``unaligned_50.pkl``, ``unaligned_39.pkl``, ``ch-simsv2s.pkl``), also of Self-MM.

A dict of splits, each a dict of arrays over clips; see :data:`LAYOUT`. What is read how:

* Length: ``audio_lengths`` and ``vision_lengths`` where the file has them, and the mask of ``text_bert`` (its second
  row) for ``text``. Elsewhere steps of zeros at both ends are padding. Where all modalities have as many steps and no
  lengths are given (the aligned files), one window is cut for all of them, so that they stay aligned.
* ``text`` are features (BERT, 768 numbers); ``text_bert`` holds token ids, which are no features.
* ``id`` ``video$_$clip`` becomes ``video/clip``, as in manifests of ``mosear prepare``.
* ``labels``: from ``tgt`` (LDDU), lists of ids with 4..9 for the six emotions, or from ``--emotions``, a table with
  ``video_id``, ``clip_id`` and a column of intensities per emotion. Several tables with the emotions are in use; no
  other form of them was seen.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosear.data.clip import ModalityLabels
from mosear.data.sources.emotions import EMOTIONS, read_emotions
from mosear.data.sources.sentiment import LABELS, polarity_label
from mosear.data.unpickling import read_pickle
from mosear.features.items import Item, Reading
from mosear.features.layouts.base import Layout, LayoutError, required

_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_MODALITIES = {"text": "text", "audio": "audio", "vision": "video"}
_SHOWN = {"text": "T", "audio": "A", "visual": "V"}
_FIRST_EMOTION = 4  # LDDU's ids 0..3 are padding, unknown, begin and end


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lengths",
        choices=("given", "nonzero", "full"),
        default="given",
        help="given: as the file says, else without zeros at the ends; nonzero: always so; full: padding stays",
    )
    parser.add_argument("--emotions", type=Path, metavar="CSV", help="table of MOSEI's six emotions, for label sets")
    parser.add_argument("--scale", type=float, help="largest sentiment (default: 1 with unimodal labels, else 3)")


def _read(source: Path, options: argparse.Namespace) -> Reading:
    if source.is_dir():
        found = ", ".join(sorted(path.name for path in source.rglob("*.pkl"))[:8]) or "none"
        raise LayoutError(f"--source {source} is a directory; name one pickle of it (there: {found})")
    data = required(read_pickle(source), (), str(source))
    splits = {name: part for name, part in data.items() if name in _SPLITS}
    if not splits:
        raise LayoutError(f"{source}: expected {', '.join(_SPLITS)}, found {', '.join(map(str, data)) or 'nothing'}")
    emotions = read_emotions(options.emotions) if options.emotions else None
    parts = {
        _SPLITS[name]: _Part(required(part, ("id",), f"{source}, {name}"), f"{source}, {name}", options, emotions)
        for name, part in splits.items()
    }
    sources = [source, *([options.emotions] if options.emotions else [])]
    reading = Reading(dict(parts), {name: len(part) for name, part in parts.items()}, sources)
    if ignored := sorted(set(map(str, data)) - set(_SPLITS)):
        reading.notes.append(f"not read: {', '.join(ignored)}")
    if emotions is not None:
        lacking = sum(len(part.unknown) for part in parts.values())
        if lacking:
            first = next(part.unknown[0] for part in parts.values() if part.unknown)
            raise LayoutError(f"{options.emotions} has no row for {lacking:,} clips, e.g. {first}")
    if not all(part.has_text for part in parts.values()):
        reading.notes.append("the file has no text features; its token ids are not read")
    return reading


class _Part:
    """The clips of a split, made one by one."""

    def __init__(
        self,
        data: Mapping[str, Any],
        where: str,
        options: argparse.Namespace,
        emotions: Mapping[str, tuple[str, ...]] | None,
    ) -> None:
        self.data, self.where, self.options, self.emotions = data, where, options, emotions
        self.ids = [_id(value) for value in data["id"]]
        self.arrays = self._arrays()
        self.has_text = "text" in self.arrays
        if not self.arrays:
            raise LayoutError(f"{where}: there are no features under text, audio and vision")
        own = options.scale or (1.0 if "regression_labels_T" in data else 3.0)
        self.scale = own
        self.unknown = [] if emotions is None else [name for name in self.ids if name not in emotions]
        self._check()

    def _arrays(self) -> dict[str, np.ndarray]:
        found = {}
        for key, name in _MODALITIES.items():
            values = np.asarray(self.data[key]) if key in self.data else None
            if values is None or values.dtype.kind in "OUS":  # text may be words, which are no features
                continue
            if values.ndim == 2:  # one vector per clip
                values = values[:, None]
            if values.ndim != 3:
                raise LayoutError(f"{self.where}: {key} has the shape {list(values.shape)}, not [clips, steps, size]")
            found[name] = values
        return found

    def _check(self) -> None:
        per_clip = ("raw_text", "text_bert", "annotations", "tgt", "audio_lengths", "vision_lengths")
        columns = {key: self.data[key] for key in self.data if key in per_clip or key.startswith("regression_labels")}
        for key, values in {**self.arrays, **columns}.items():
            if len(values) != len(self.ids):
                raise LayoutError(f"{self.where}: {key} has {len(values):,} entries for {len(self.ids):,} ids")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Item]:
        for index, name in enumerate(self.ids):
            score = self._score("regression_labels", index)
            if score is not None and abs(score) > self.scale + 1e-6:
                raise LayoutError(f"{self.where}, {name}: sentiment {score:g} is beyond {self.scale:g}; see --scale")
            shown = {key: polarity_label(self._score(f"regression_labels_{m}", index), 1) for key, m in _SHOWN.items()}
            yield Item(
                id=name,
                features=self._features(index),
                text=_text(self.data["raw_text"][index]) if "raw_text" in self.data else None,
                label=self._label(index, score),
                labels=self._labels(index),
                score=score,
                modality_labels=ModalityLabels(**shown),
            )

    def _score(self, key: str, index: int) -> float | None:
        if key not in self.data:
            return None
        value = float(np.asarray(self.data[key][index]).reshape(-1)[0])
        return None if math.isnan(value) else value

    def _label(self, index: int, score: float | None) -> str | None:
        named = str(self.data["annotations"][index]).lower() if "annotations" in self.data else ""
        return named if named in LABELS else polarity_label(score, self.scale)

    def _labels(self, index: int) -> tuple[str, ...]:
        if self.emotions is not None:
            return self.emotions[self.ids[index]]
        if "tgt" not in self.data:
            return ()
        ids = [int(value) for value in np.asarray(self.data["tgt"][index]).reshape(-1)]
        if wrong := [value for value in ids if not 0 <= value < _FIRST_EMOTION + len(EMOTIONS)]:
            raise LayoutError(f"{self.where}, {self.ids[index]}: tgt holds {wrong[0]}; emotions are the ids 4 to 9")
        return tuple(name for at, name in enumerate(EMOTIONS, _FIRST_EMOTION) if at in ids)

    def _features(self, index: int) -> dict[str, np.ndarray]:
        rows = {name: values[index] for name, values in self.arrays.items()}
        if self.options.lengths == "full":
            return rows
        given = {name: self._given(name, index) for name in rows} if self.options.lengths == "given" else {}
        if len({len(row) for row in rows.values()}) == 1 and not any(
            given.get(name) is not None for name in ("audio", "video")
        ):
            start, end = _window(np.any([_filled(row) for row in rows.values()], axis=0))
            return {name: row[start:end] for name, row in rows.items() if _filled(row).any()}
        found = {}
        for name, row in rows.items():
            length = given.get(name)
            start, end = _window(_filled(row)) if length is None else (0, length)
            found[name] = row[start:end]
        return found

    def _given(self, name: str, index: int) -> int | None:
        """How many steps the file says a clip has; published lengths may be those before truncation."""
        steps = self.arrays[name].shape[1]
        if name == "text":
            mask = np.asarray(self.data["text_bert"][index])[1] if "text_bert" in self.data else None
            return None if mask is None or len(mask) != steps else _window(mask != 0)[1]
        key = {"audio": "audio_lengths", "video": "vision_lengths"}[name]
        return None if key not in self.data else max(0, min(steps, int(self.data[key][index])))


def _filled(row: np.ndarray) -> np.ndarray:
    """bool ``[T]``: which steps are not padding; -inf and NaN are values here."""
    return np.asarray((row != 0).any(axis=1))


def _window(filled: np.ndarray) -> tuple[int, int]:
    places = np.flatnonzero(filled)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _id(value: Any) -> str:
    parts = [_text(part) for part in value] if isinstance(value, np.ndarray | list | tuple) else [_text(value)]
    return "$_$".join(part or "" for part in parts).replace("$_$", "/")


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


LAYOUT = Layout(
    name="mmsa",
    title="MMSA and Self-MM: CMU-MOSI, CMU-MOSEI, CH-SIMS and CH-SIMS v2 in one pickle",
    tree="""--source unaligned_50.pkl: a dict with train, valid and test (any of them), each a dict of
  id                        "video$_$clip" of N clips
  audio [N, Ta, Da], vision [N, Tv, Dv], text [N, Tt, Dt] (any of them)
  raw_text, text_bert [N, 3, Tt], audio_lengths, vision_lengths, annotations, tgt (where there)
  regression_labels, regression_labels_T, regression_labels_A, regression_labels_V (where there)""",
    evidence="Keys and shapes are those of MMSA's and Self-MM's public loaders, tgt that of LDDU's.",
    read=_read,
    add_arguments=_add_arguments,
)
