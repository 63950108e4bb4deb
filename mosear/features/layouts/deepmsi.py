"""DeepMSI-MER's pickles, one per utterance and modality.

``audio/{n}.pkl`` holds ``{"audio_feature"}``, ``text/{n}.pkl`` ``{"text_feature", "label"}`` and ``video/{n}.pkl``
``{"images"}``: frames as pixels, which are no features. They are left out unless ``--pixels flatten`` makes each frame
one long step (channels x height x width numbers), or ``--video-key`` names something else in the file. Public code
merges the splits for cross-validation; here they stay as they are.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosear.data.sources.tables import read_table, read_text, repaired
from mosear.data.unpickling import read_pickle
from mosear.features.items import Item, Reading
from mosear.features.layouts.base import Layout, LayoutError, required

_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_SPEAKER = re.compile(r"(Ses\d\d).*_([FM])\d+")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video-key", default="images", help="what to take of video/{n}.pkl (default: images)")
    parser.add_argument(
        "--pixels", choices=("skip", "flatten"), default="skip", help="frames of pixels: leave out, or one step each"
    )


@dataclass(frozen=True)
class _Line:
    name: str
    text: str
    speaker: str | None


def _read(source: Path, options: argparse.Namespace) -> Reading:
    places = {split: _list_file(source, name) for name, split in _SPLITS.items()}
    lists = {split: path for split, path in places.items() if path is not None}
    if not lists:
        raise LayoutError(f"{source}: expected train, valid and test with .csv (MELD) or .txt (IEMOCAP); none is there")
    lines = {split: _lines(path) for split, path in lists.items()}
    folder = {split: name for name, split in _SPLITS.items()}
    parts = {split: _Part(split, source / folder[split], found, options) for split, found in lines.items()}
    files = [path for part in parts.values() for path in part.files()]
    reading = Reading(dict(parts), {split: len(found) for split, found in lines.items()}, [*lists.values(), *files])
    if any(part.skips_video for part in parts.values()):
        reading.notes.append("video holds pixels, which are left out; --pixels flatten takes them")
    return reading


def _list_file(source: Path, name: str) -> Path | None:
    return next((path for path in (source / f"{name}.csv", source / f"{name}.txt") if path.is_file()), None)


def _lines(path: Path) -> list[_Line]:
    if path.suffix == ".csv":
        rows = read_table(path, ("Dialogue_ID", "Utterance_ID", "Utterance"))
        return [
            _Line(
                f"dia{row['Dialogue_ID'].strip()}_utt{row['Utterance_ID'].strip()}",
                row["Utterance"],
                row.get("Speaker"),
            )
            for row in rows
        ]
    found = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        cells = line.rstrip("\r").split("\t")
        if cells == [""]:
            continue
        if len(cells) != 3:
            raise LayoutError(f"{path}, line {number}: {len(cells)} cells instead of File_name, Emotion and Text")
        spoken = _SPEAKER.fullmatch(cells[0])
        found.append(_Line(cells[0], cells[2], spoken and f"{spoken[1]}{spoken[2]}"))
    return found


class _Part:
    """The clips of a split."""

    def __init__(self, split: str, folder: Path, lines: list[_Line], options: argparse.Namespace) -> None:
        self.split, self.folder, self.lines, self.options = split, folder, lines, options
        for line in lines:
            if "/" in line.name or "\\" in line.name or line.name.startswith("."):
                raise LayoutError(f"{folder}: {line.name!r} is no file name")
        self.modalities = [name for name in ("text", "audio", "video") if (folder / name).is_dir()]
        if "text" not in self.modalities:
            raise LayoutError(
                f"{folder}: expected directories text, audio and video; text, with the labels, is not there"
            )
        self.skips_video = "video" in self.modalities and options.pixels == "skip" and self._has_pixels()
        if self.skips_video:
            self.modalities.remove("video")

    def _has_pixels(self) -> bool:
        return bool(self.lines) and self._array("video", self.lines[0].name, self.options.video_key).ndim > 2

    def files(self) -> list[Path]:
        """Those that are read.

        Raises:
            LayoutError: One is not there.
        """
        found = [self.folder / name / f"{line.name}.pkl" for name in self.modalities for line in self.lines]
        if lacking := [path for path in found if not path.is_file()]:
            raise LayoutError(f"{len(lacking):,} files are not there, e.g. {lacking[0]}")
        return found

    def __iter__(self) -> Iterator[Item]:
        keys = {"text": "text_feature", "audio": "audio_feature", "video": self.options.video_key}
        for line in self.lines:
            features = {name: self._array(name, line.name, keys[name]) for name in self.modalities}
            if features.get("video", np.empty(0)).ndim > 2:
                features["video"] = features["video"].reshape(len(features["video"]), -1)
            label = self._content("text", line.name, "label")
            yield Item(
                id=f"{self.split}/{line.name}",
                features=features,
                text=repaired(line.text),
                label=label if isinstance(label, str) else int(np.asarray(label).reshape(-1)[0]),
                speaker=line.speaker,
            )

    def _content(self, modality: str, name: str, key: str) -> Any:
        path = self.folder / modality / f"{name}.pkl"
        return required(read_pickle(path), (key,), str(path))[key]

    def _array(self, modality: str, name: str, key: str) -> np.ndarray:
        values = np.asarray(self._content(modality, name, key))
        if values.ndim == 3 and len(values) == 1:  # a batch of one
            values = values[0]
        return values


LAYOUT = Layout(
    name="deepmsi",
    title="DeepMSI-MER: one pickle per utterance and modality (MELD, IEMOCAP)",
    tree="""--source DIR with
  train.csv, valid.csv, test.csv     MELD's tables; or .txt, IEMOCAP: File_name <tab> Emotion <tab> Text, no header
  {train,valid,test}/text/{n}.pkl    {"text_feature", "label"}     n: dia{D}_utt{U}, or File_name
  {train,valid,test}/audio/{n}.pkl   {"audio_feature"}
  {train,valid,test}/video/{n}.pkl   {"images"}
--labels  MELD: neutral,surprise,fear,sadness,joy,disgust,anger   IEMOCAP: hap,sad,neu,ang,exc,fru""",
    evidence="Folders and keys are those of DeepMSI-MER's public code; shapes are not stated there.",
    read=_read,
    add_arguments=_add_arguments,
)
