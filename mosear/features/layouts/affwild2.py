"""Aff-Wild2: annotations of valence and arousal, and one ``.npy`` file of features per video.

Features ``[T, D]`` may have any rate: a window of annotations gets the part of the features that covers the same share
of the video. The test set's annotations are not published, so the published validation set is the test split here, and
a share of the training videos validates. Annotations have one line per frame; the files do not say how many frames a
second has, so ``--rate`` does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mosear.data.series import series_text
from mosear.data.sources.affwild2_tables import annotation_files, read_annotation, video_name
from mosear.features.items import Item, Reading
from mosear.features.layouts.base import Layout, LayoutError, held_out, read_array

_TREE = """--source DIR with
  VA_Estimation_Challenge/{Train_Set,Validation_Set}/{video}[_left|_right].txt     valence,arousal; a line per frame
--audio FOLDER, --video FOLDER, --text FOLDER (any of them, below --source or anywhere) with
  {video}[_left|_right].npy or {video}.npy                                         [T, D]"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("audio", "video", "text"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"{name} features, one .npy per video")
    parser.add_argument("--rate", type=float, required=True, help="annotated frames per second")
    parser.add_argument(
        "--stride", type=int, default=1, metavar="N", help="keep every N-th annotated frame (default: 1)"
    )
    parser.add_argument(
        "--window", type=int, metavar="N", help="cut videos into clips of N kept frames (default: whole)"
    )
    parser.add_argument(
        "--hop", type=int, metavar="N", help="kept frames between the starts of training windows (default: the window)"
    )
    parser.add_argument(
        "--validation", type=float, default=0.15, metavar="SHARE", help="of the training videos (default: 0.15)"
    )
    parser.add_argument(
        "--on-missing", choices=("error", "skip"), default="error", help="an annotation without any feature file"
    )


@dataclass(frozen=True)
class _Annotated:
    name: str
    values: np.ndarray
    files: dict[str, Path]


def _read(source: Path, options: argparse.Namespace) -> Reading:
    given = {name: getattr(options, name) for name in ("audio", "video", "text")}
    folders = {name: source / path for name, path in given.items() if path is not None}
    if not folders:
        raise LayoutError("give at least one of --audio, --video and --text: folders of .npy files")
    for name, least in (("stride", 1), ("window", 2), ("hop", 1)):
        if getattr(options, name) is not None and getattr(options, name) < least:
            raise LayoutError(f"--{name} is at least {least}, got {getattr(options, name)}")
    if options.hop is not None and (options.window is None or options.hop > options.window):
        raise LayoutError(f"--hop {options.hop} needs a --window of at least as many frames, got {options.window}")
    published = annotation_files(source, _TREE)
    found, skipped = {}, []
    for name, paths in published.items():
        found[name] = [_annotated(path, folders, options.stride) for path in paths]
        skipped += [clip.name for clip in found[name] if not clip.files]
        found[name] = [clip for clip in found[name] if clip.files]
    if skipped and options.on_missing == "error":
        raise LayoutError(
            f"{len(skipped)} annotations have no feature file, e.g. {skipped[0]}; --on-missing skip leaves them out"
        )
    validation = held_out([video_name(clip.name) for clip in found["Train_Set"]], options.validation)
    splits: dict[str, list[_Annotated]] = {"train": [], "val": [], "test": found["Validation_Set"]}
    for clip in found["Train_Set"]:
        splits["val" if video_name(clip.name) in validation else "train"].append(clip)
    # Windows overlap in training alone: elsewhere every annotated frame counts once.
    hops = {"train": options.hop or options.window}
    items = {split: _Items(clips, options, hops.get(split, options.window)) for split, clips in splits.items() if clips}
    sources = [path for paths in published.values() for path in paths]
    sources += sorted({file for clips in splits.values() for clip in clips for file in clip.files.values()})
    notes = ["the published validation set is test; validation is a share of the training videos"]
    if skipped:
        notes.append(f"left out, without features: {len(skipped)}")
    return Reading(dict(items), {split: len(part) for split, part in items.items()}, sources, notes, True)


def _annotated(path: Path, folders: dict[str, Path], stride: int) -> _Annotated:
    values = np.array(read_annotation(path), dtype=np.float64)[::stride]
    files = {}
    for name, folder in folders.items():
        places = (folder / f"{path.stem}.npy", folder / f"{video_name(path.stem)}.npy")
        file = next((place for place in places if place.is_file()), None)
        if file is not None:
            files[name] = file
    return _Annotated(path.stem, values, files)


class _Items:
    def __init__(self, clips: list[_Annotated], options: argparse.Namespace, hop: int | None) -> None:
        self.clips, self.window, self.rate, self.hop = clips, options.window, options.rate / options.stride, hop

    def __len__(self) -> int:
        return sum(len(self._windows(clip)) for clip in self.clips)

    def _windows(self, clip: _Annotated) -> list[tuple[int, int]]:
        """Those with an annotation."""
        total = len(clip.values)
        size = self.window or total
        cuts = []
        for start in range(0, total, self.hop or total):
            cuts.append((start, min(start + size, total)))
            if start + size >= total:  # a further window would hold nothing new
                break
        return [(start, end) for start, end in cuts if np.isfinite(clip.values[start:end]).any()]

    def __iter__(self) -> Iterator[Item]:
        for clip in self.clips:
            arrays = {name: np.atleast_2d(read_array(file)) for name, file in clip.files.items()}
            total = len(clip.values)
            for start, end in self._windows(clip):
                yield Item(
                    id=f"{clip.name}/{start:06d}" if self.window else clip.name,
                    features={
                        name: values[start * len(values) // total : max(end * len(values) // total, 1)]
                        for name, values in arrays.items()
                    },
                    series=series_text(self.rate, clip.values[start:end]),
                    speaker=clip.name,
                )


LAYOUT = Layout(
    name="affwild2",
    title="Aff-Wild2: valence and arousal of every frame, with one .npy of features per video",
    tree=_TREE,
    evidence="Annotations follow a public description of the data; feature files are a common habit, not a standard.",
    read=_read,
    add_arguments=_add_arguments,
)
