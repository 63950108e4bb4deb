"""MSE-Adapter's list pickles of MELD, CHERMA and IEMOCAP: ``{name}_{train|valid|test}.pkl``.

Each is a list of ``{"features": {"text", "audio", "video", "audio_len", "video_len"}, "label"}``. ``text`` is the
transcript, not a feature. ``audio`` and ``video`` are ``[steps, size]``, padded behind ``audio_len`` and ``video_len``
steps; which axis counts steps is not said anywhere, so ``--steps-last`` reads ``[size, steps]``. The files have no ids:
a clip is ``split/place``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mosear.data.unpickling import read_pickle
from mosear.features.items import Item, Reading
from mosear.features.layouts.base import Layout, LayoutError, required

_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_LENGTHS = {"audio": "audio_len", "video": "video_len"}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="what the files are called before _train.pkl (default: the only one there is)")
    parser.add_argument("--steps-last", action="store_true", help="audio and video are [size, steps]")


def _read(source: Path, options: argparse.Namespace) -> Reading:
    if not source.is_dir():
        raise LayoutError(f"--source {source} is a file; name the directory of the three files")
    names = sorted(path.name.removesuffix("_train.pkl") for path in source.glob("*_train.pkl"))
    if options.name is None and len(names) != 1:
        found = f"there are {', '.join(names)}; choose with --name" if names else "there is none"
        raise LayoutError(f"{source}: expected one file *_train.pkl, {found}")
    name = options.name or names[0]
    paths = {split: source / f"{name}_{file}.pkl" for file, split in _SPLITS.items()}
    if lacking := [path.name for path in paths.values() if not path.is_file()]:
        raise LayoutError(f"{source}: {', '.join(lacking)} not found; the splits are {', '.join(_SPLITS)}")
    entries = {split: _entries(path) for split, path in paths.items()}
    counts = {split: len(found) for split, found in entries.items()}
    items = {split: _Items(split, found, options.steps_last) for split, found in entries.items()}
    return Reading(dict(items), counts, list(paths.values()))


def _entries(path: Path) -> list[Any]:
    found = read_pickle(path)
    if isinstance(found, np.ndarray):
        found = found.tolist()
    if not isinstance(found, list):
        raise LayoutError(f"{path}: expected a list of clips, found {type(found).__name__}")
    return found


class _Items:
    def __init__(self, split: str, entries: list[Any], steps_last: bool) -> None:
        self.split, self.entries, self.steps_last = split, entries, steps_last

    def __iter__(self) -> Iterator[Item]:
        for index, entry in enumerate(self.entries):
            where = f"{self.split}, clip {index}"
            entry = required(entry, ("features", "label"), where)
            features = required(entry["features"], ("text", "audio", "video"), where)
            steps = {name: self._steps(name, features, where) for name in _LENGTHS}
            label = entry["label"]
            if not isinstance(label, str | int):
                raise LayoutError(f"{where}: the label is {label!r:.40}, neither text nor an index")
            yield Item(f"{self.split}/{index:05d}", steps, text=str(features["text"]), label=label)

    def _steps(self, name: str, features: Any, where: str) -> np.ndarray:
        values = np.asarray(features[name])
        if values.ndim != 2:
            raise LayoutError(f"{where}: {name} has the shape {list(values.shape)}, not [steps, size]")
        values = values.T if self.steps_last else values
        length = int(features.get(_LENGTHS[name], len(values)))
        if not 0 <= length <= len(values):
            raise LayoutError(
                f"{where}: {_LENGTHS[name]} is {length}, {name} has {len(values)} steps "
                f"(--steps-last {'reads' if not self.steps_last else 'has read'} the other axis as steps)"
            )
        return values[:length]


LAYOUT = Layout(
    name="list_pickle",
    title="MSE-Adapter: MELD, CHERMA or IEMOCAP as three lists of clips",
    tree="""--source DIR: {name}_train.pkl, {name}_valid.pkl, {name}_test.pkl, each a list of
  {"features": {"text": transcript, "audio" [T, D], "video" [T, D], "audio_len", "video_len"}, "label": name}""",
    evidence="Keys are those of MSE-Adapter's public loader; the files themselves were not seen.",
    read=_read,
    add_arguments=_add_arguments,
)
