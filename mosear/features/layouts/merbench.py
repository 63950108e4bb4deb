"""MERBench: a directory of ``.npy`` files per feature set, and a label archive.

``{folder}/{clip}.npy`` holds ``[D]`` (utterance level, folders end in ``-UTT``) or ``[T, D]`` (frame level, ``-FRA``);
instead of a file there may be a directory ``{clip}/`` with one file per frame. The label archive (``label-6way.npz``
and the like) holds one pickled dict per part of the data set, ``{clip: {"emo", "val"}}``; it is read without running
it. Which parts are which split is known for ``train_corpus``, ``val_corpus``, ``test_corpus`` and MER2023's
``test1_corpus`` to ``test3_corpus``; IEMOCAP's ``whole_corpus`` is split by session; for others there is ``--part``.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosear.data.sources.pickles import read_label_archive
from mosear.data.sources.tables import read_table
from mosear.features.items import Item, Reading
from mosear.features.layouts.base import Layout, LayoutError, held_out, read_array

_SPLITS = ("train", "val", "test")
_NO_VALENCE = -10.0
_WHOLE = "whole_corpus"
_SESSION = re.compile(r"Ses0([1-5])")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("text", "audio", "video"):
        parser.add_argument(
            f"--{name}", type=Path, metavar="FOLDER", help=f"{name} features, below --source or anywhere"
        )
    parser.add_argument(
        "--label-file", type=Path, metavar="NPZ", help="label archive (default: the only .npz there is)"
    )
    parser.add_argument(
        "--part", action="append", default=[], metavar="KEY=SPLIT", help="split of a part of the archive"
    )
    parser.add_argument("--session", type=int, default=5, help="IEMOCAP's test session (default: 5)")
    parser.add_argument(
        "--validation", type=float, default=0.2, metavar="SHARE", help="of training, where there is none (default: 0.2)"
    )
    parser.add_argument("--transcripts", type=Path, metavar="CSV", help="table with a column name and a transcript")
    parser.add_argument("--column", default="chinese", help="of the transcript (default: chinese)")
    parser.add_argument(
        "--on-missing", choices=("error", "absent"), default="error", help="a clip without a feature file"
    )


@dataclass(frozen=True)
class _Clip:
    name: str
    label: Any
    score: float | None
    subset: str


def _read(source: Path, options: argparse.Namespace) -> Reading:
    given = {name: getattr(options, name) for name in ("text", "audio", "video")}
    folders = {name: source / path for name, path in given.items() if path is not None}
    if not folders:
        raise LayoutError("give at least one of --text, --audio and --video: folders of .npy files")
    for name, path in folders.items():
        if not path.is_dir():
            raise LayoutError(f"--{name} {path} is not a directory")
    archive = _below(source, options.label_file) or _only_archive(source)
    clips, notes, own = _clips(archive, options)
    texts = _transcripts(_below(source, options.transcripts), options.column)
    finder = _Finder(folders, options.on_missing == "absent")
    items = {split: _Items(found, finder, texts) for split, found in clips.items()}
    sources = [archive, *finder.check(clip.name for found in clips.values() for clip in found)]
    if finder.absent:
        lacking = ", ".join(f"{name} {count:,}" for name, count in finder.absent.items())
        notes.append(f"clips without a file: {lacking}")
    return Reading(dict(items), {split: len(found) for split, found in clips.items()}, sources, notes, own)


def _below(source: Path, path: Path | None) -> Path | None:
    return None if path is None else source / path


def _only_archive(source: Path) -> Path:
    found = sorted(source.glob("*.npz"))
    if len(found) != 1:
        told = f"there are {', '.join(path.name for path in found)}" if found else "there is none"
        raise LayoutError(f"{source}: expected one label archive *.npz, {told}; name it with --label-file")
    return found[0]


def _clips(archive: Path, options: argparse.Namespace) -> tuple[dict[str, list[_Clip]], list[str], bool]:
    corpora = read_label_archive(archive)
    splits = _splits_of(corpora, options)
    tests = [key for key, split in splits.items() if split == "test"]
    entries = [entry for corpus in corpora.values() for entry in corpus.values()]
    # Sentiment sets have the emotion 0 everywhere: it says nothing.
    empty = {str(entry.get("emo")) for entry in entries} <= {"0", "0.0", "None"}
    found: dict[str, list[_Clip]] = {split: [] for split in _SPLITS}
    for key, corpus in corpora.items():
        subset = key.removesuffix("_corpus") if len(tests) > 1 and splits[key] == "test" else "all"
        for name, entry in corpus.items():
            label = None if empty else _label(entry.get("emo"))
            score = float(entry.get("val", _NO_VALENCE))
            kept = None if score == _NO_VALENCE or math.isnan(score) else score
            split = splits[key] if key != _WHOLE else _session_split(str(name), options.session)
            found[split].append(_Clip(str(name), label, kept, subset))
    if found["val"] or not found["train"]:
        return {split: clips for split, clips in found.items() if clips}, [], False
    if _WHOLE in corpora:  # whole dialogues, so that none is in two splits
        groups = {clip.name: clip.name.rsplit("_", 1)[0] for clip in found["train"]}
    else:
        groups = {clip.name: clip.name for clip in found["train"]}
    validation = held_out(groups.values(), options.validation)
    found["val"] = [clip for clip in found["train"] if groups[clip.name] in validation]
    found["train"] = [clip for clip in found["train"] if groups[clip.name] not in validation]
    note = "validation is a share of training, chosen by a hash of the names"
    return {split: clips for split, clips in found.items() if clips}, [note], True


def _splits_of(corpora: Mapping[str, Any], options: argparse.Namespace) -> dict[str, str]:
    given = dict(pair.partition("=")[::2] for pair in options.part)
    if wrong := [f"{key}={split}" for key, split in given.items() if split not in _SPLITS or key not in corpora]:
        raise LayoutError(f"--part {', '.join(wrong)}: parts are {', '.join(corpora)}, splits {', '.join(_SPLITS)}")
    known = {"train_corpus": "train", "val_corpus": "val", "test_corpus": "test", _WHOLE: "train"}
    known |= {f"test{number}_corpus": "test" for number in (1, 2, 3)}
    if unknown := sorted(set(corpora) - set(known) - set(given)):
        raise LayoutError(f"the archive has {', '.join(unknown)}; say with --part KEY=SPLIT what they are")
    return {key: given.get(key) or known[key] for key in corpora}


def _session_split(name: str, session: int) -> str:
    found = _SESSION.match(name)
    if found is None:
        raise LayoutError(f"{name} is no clip of IEMOCAP; say with --part {_WHOLE}=SPLIT what the archive is")
    return "test" if int(found[1]) == session else "train"


def _label(value: Any) -> str | int | None:
    if value is None or isinstance(value, str):
        return value
    return int(value)


def _transcripts(path: Path | None, column: str) -> dict[str, str]:
    if path is None:
        return {}
    return {row["name"].strip(): row[column] for row in read_table(path, ("name", column)) if row[column].strip()}


class _Finder:
    """Finds a clip's files."""

    def __init__(self, folders: Mapping[str, Path], may_lack: bool) -> None:
        self.folders, self.may_lack = folders, may_lack
        self.absent: dict[str, int] = {}

    def files(self, modality: str, name: str) -> list[Path]:
        """One file, or one per frame, in order; none where there is none."""
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise LayoutError(f"the label archive names a clip {name!r}, which is no file name")
        single = self.folders[modality] / f"{name}.npy"
        if single.is_file():
            return [single]
        return sorted((self.folders[modality] / name).glob("*.npy"))

    def check(self, names: Iterator[str]) -> list[Path]:
        """All files of these clips; counts clips that lack one.

        Raises:
            LayoutError: Some lack one, and that is not allowed.
        """
        found: list[Path] = []
        first: dict[str, str] = {}
        for name in names:
            for modality in self.folders:
                files = self.files(modality, name)
                found += files
                if not files:
                    self.absent[modality] = self.absent.get(modality, 0) + 1
                    first.setdefault(modality, name)
        if self.absent and not self.may_lack:
            told = "; ".join(f"{m}: {n:,}, e.g. {self.folders[m] / first[m]}.npy" for m, n in self.absent.items())
            raise LayoutError(f"clips without a feature file: {told}. --on-missing absent converts the others")
        return found


class _Items:
    def __init__(self, clips: list[_Clip], finder: _Finder, texts: Mapping[str, str]) -> None:
        self.clips, self.finder, self.texts = clips, finder, texts

    def __iter__(self) -> Iterator[Item]:
        for clip in self.clips:
            features = {}
            for modality in self.finder.folders:
                arrays = [np.atleast_2d(read_array(path)) for path in self.finder.files(modality, clip.name)]
                if arrays:
                    features[modality] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            text = self.texts.get(clip.name)
            yield Item(clip.name, features, text=text, label=clip.label, score=clip.score, subset=clip.subset)


LAYOUT = Layout(
    name="merbench",
    title="MERBench: folders of .npy files with a label archive (MER2023, IEMOCAP, MELD, MOSI, MOSEI, SIMS)",
    tree="""--source DIR with
  label-6way.npz                       parts train_corpus, val_corpus, test_corpus, ... : {clip: {"emo", "val"}}
  FOLDER/{clip}.npy                    [D] or [T, D]; or FOLDER/{clip}/*.npy, one per frame
  transcription-engchi-polish.csv      name,chinese,english (with --transcripts)
--audio FOLDER --text FOLDER --video FOLDER name the feature sets to take""",
    evidence="Read by MERBench's public loaders; label archives of MER2023 and IEMOCAP as published.",
    read=_read,
    add_arguments=_add_arguments,
)
