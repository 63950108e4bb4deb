"""RAVDESS: 24 actors, two sentences, eight emotions; everything about a file is in its name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mosear.data.clip import Clip
from mosear.data.sources.base import Reading, Request, Row, Source, split_of_fold
from mosear.data.sources.files import unlike, visible_files

LABELS = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
_STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
_ACTORS, _FOLDS = 24, 6

LAYOUT = """any folders, for example Actor_01/, with files named
{modality}-{channel}-{emotion}-{intensity}-{statement}-{repetition}-{actor}, such as
01-01-05-02-01-01-12.mp4   picture and sound (01), or 02-*.mp4 picture and 03-*.wav sound
1,440 speech clips; songs (channel 02) are left out"""

_NAME = re.compile(r"0[123]-(?P<key>0[12]-0[1-8]-0[12]-0[12]-0[12]-(?:0[1-9]|1\d|2[0-4]))")


@dataclass
class Utterance:
    """One spoken sentence, with the files that hold it.

    Attributes:
        key: The name without its modality: channel, emotion, intensity, statement, repetition, actor.
        files: Modality code (``01`` both, ``02`` picture, ``03`` sound) -> file.
    """

    key: str
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """Channel, emotion, intensity, statement, repetition, actor."""
        return tuple(self.key.split("-"))

    @property
    def emotion(self) -> str:
        """One of `LABELS`."""
        return LABELS[int(self.fields[1]) - 1]

    @property
    def text(self) -> str:
        """What is said."""
        return _STATEMENTS[self.fields[3]]

    @property
    def actor(self) -> int:
        """1 to 24; odd ones are men."""
        return int(self.fields[5])

    @property
    def picture(self) -> Path | None:
        """A file with the picture."""
        return self.files.get("01") or self.files.get("02")

    @property
    def sound(self) -> Path | None:
        """A file with the sound; the uncompressed one if it is there."""
        return self.files.get("03") or self.files.get("01")


def utterances(root: Path) -> Iterator[Utterance]:
    """All utterances below a directory, songs too, in the order of their keys.

    Raises:
        LayoutError: No file is named like one of RAVDESS.
    """
    found: dict[str, Utterance] = {}
    for path in visible_files(root):
        match = _NAME.fullmatch(path.stem)
        if match and path.suffix in (".mp4", ".wav"):
            utterance = found.setdefault(match["key"], Utterance(match["key"]))
            utterance.files.setdefault(path.name[:2], path)
    if not found:
        raise unlike(root, "no file is named like one of RAVDESS", LAYOUT)
    return (found[key] for key in sorted(found))


def fold_of(actor: int) -> int:
    """The fold of an actor, from 1: actors 1 to 4, 5 to 8, and so on."""
    return (actor - 1) * _FOLDS // _ACTORS + 1


def _read(request: Request) -> Reading:
    reading = Reading([])
    for utterance in utterances(request.root):
        if utterance.fields[0] == "02":
            reading.drop("song", utterance.key)
            continue
        both = utterance.files.get("01")
        picture, sound = both or utterance.picture, "video" if both else utterance.sound
        clip = Clip(
            id=utterance.key,
            video=picture.relative_to(request.root).as_posix() if picture else None,
            audio=sound.relative_to(request.root).as_posix() if isinstance(sound, Path) else sound,
            text=utterance.text,
            label=utterance.emotion,
            split=split_of_fold(fold_of(utterance.actor), request.fold, _FOLDS),
            speaker=f"{utterance.actor:02d}",
        )
        reading.rows.append(Row(clip))
    one_sided = sum(row.clip.video is None or row.clip.audio is None for row in reading.rows)
    if one_sided:
        reading.notes.append(f"{one_sided:,} clips have a picture or a sound file only; they are listed as they are.")
    return reading


def _counts(request: Request) -> Mapping[str, int]:
    per_label = {f"label {label}": 96 if label == "neutral" else 192 for label in LABELS}
    folds = {"split test": 240, "split val": 240, "split train": 960} if request.fold else {"split test": 1440}
    return {"clips": 1440, **per_label, **folds}


RAVDESS = Source(
    name="ravdess",
    title="RAVDESS speech: acted emotions of 24 speakers",
    licence="CC BY-NC-SA 4.0",
    layout=LAYOUT,
    read=_read,
    evidence="published naming scheme; folds of four actors as in public split files",
    labels=LABELS,
    counts=_counts,
    disjoint=("speaker",),
    folds=_FOLDS,
)
