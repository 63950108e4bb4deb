"""IEMOCAP: ten actors in five sessions of two, in the usual four-way and six-way selections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mosear.data.clip import Clip
from mosear.data.sources.base import Reading, Request, Row, Source, split_of_fold
from mosear.data.sources.files import SOUND_SUFFIXES, MediaIndex, unlike, visible_files
from mosear.data.sources.tables import read_text

_SESSIONS = 5
_FOUR = {"hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral", "ang": "angry"}
_SIX = {"hap": "happy", "sad": "sad", "neu": "neutral", "ang": "angry", "exc": "excited", "fru": "frustrated"}
_FOUR_COUNTS = {"happy": 1636, "sad": 1084, "neutral": 1708, "angry": 1103}
_SIX_COUNTS = {"happy": 595, "sad": 1084, "neutral": 1708, "angry": 1103, "excited": 1041, "frustrated": 1849}
_FOUR_SESSIONS = (1085, 1023, 1151, 1031, 1241)

LAYOUT = """Session1/dialog/EmoEvaluation/Ses01F_impro01.txt     [start - end]<tab>turn<tab>code<tab>[V, A, D]
Session1/dialog/transcriptions/Ses01F_impro01.txt     turn [start-end]: text
Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
... up to Session5
subvideo/Ses01F_impro01_F000.avi                      optional: one cropped video per turn, from you"""

_SUMMARY = re.compile(
    r"\[(?P<start>[\d.]+) - [\d.]+\]\t(?P<turn>Ses0[1-5][FM]_\w+)\t(?P<code>[a-z]{3})\t\[(?P<valence>[\d.]+),.*\]"
)
_LINE = re.compile(r"(?P<turn>Ses0[1-5][FM]_\w+) \[[\d.]+-[\d.]+\]: ?(?P<text>.*)")
_TURN = re.compile(r"(?P<dialogue>(?P<session>Ses0[1-5])[FM]_\w+)_(?P<speaker>[FM])\w*\d+")


class _Turn(NamedTuple):
    name: str
    code: str
    valence: float


def _turns(path: Path) -> Iterator[_Turn]:
    """The summary lines; the lines of single annotators between them are skipped."""
    for line in read_text(path).splitlines():
        match = _SUMMARY.fullmatch(line.strip())
        if match:
            yield _Turn(match["turn"], match["code"], float(match["valence"]))


def _transcript(path: Path) -> tuple[dict[str, str], int]:
    """Turn -> text in the order of the dialogue, and how many lines are none."""
    texts, unread = {}, 0
    for line in read_text(path).splitlines():
        match = _LINE.fullmatch(line.strip())
        if match:
            texts[match["turn"]] = match["text"].strip()
        else:
            unread += bool(line.strip())
    return texts, unread


def _read(request: Request, labels: Mapping[str, str]) -> Reading:
    reading = Reading([])
    unread = 0
    video = None
    if (request.root / "subvideo").is_dir():
        video = MediaIndex(request.root, request.root / "subvideo")
    for number in range(1, _SESSIONS + 1):
        session = request.root / f"Session{number}"
        if not (session / "dialog" / "EmoEvaluation").is_dir():
            raise unlike(request.root, f"no directory Session{number}/dialog/EmoEvaluation", LAYOUT)
        sound = MediaIndex(request.root, session / "sentences" / "wav", SOUND_SUFFIXES)
        for path in visible_files(session / "dialog" / "EmoEvaluation"):
            # Folders beside the summaries hold each annotator's own files.
            if path.parent.name != "EmoEvaluation" or path.suffix != ".txt":
                continue
            transcript = session / "dialog" / "transcriptions" / path.name
            if not transcript.is_file():
                raise unlike(session, f"no file {transcript.relative_to(session)}", LAYOUT)
            texts, lost = _transcript(transcript)
            unread += lost
            for turn in _turns(path):
                if turn.code not in labels:
                    reading.drop(f"labelled {turn.code}", turn.name)
                    continue
                split = split_of_fold(number, request.fold, _SESSIONS)
                reading.rows.append(_row(turn, labels[turn.code], texts, sound, video, split))
    if unread:
        reading.notes.append(f"{unread} lines of the transcripts are no turns and were skipped.")
    if video is None:
        reading.notes.append("No subvideo/: the clips have sound and text only. The corpus films two people per frame.")
    return reading


def _row(
    turn: _Turn, label: str, texts: Mapping[str, str], sound: MediaIndex, video: MediaIndex | None, split: str
) -> Row:
    parts = _TURN.fullmatch(turn.name)
    assert parts is not None, turn.name
    order = list(texts)
    earlier = order[: order.index(turn.name)] if turn.name in texts else []
    clip = Clip(
        id=turn.name,
        video=video.path(turn.name) if video else None,
        audio=sound.path(f"{parts['dialogue']}/{turn.name}"),
        text=texts.get(turn.name),
        label=label,
        score=turn.valence,
        split=split,
        context=tuple(f"{_speaker(name)}: {texts[name]}" for name in earlier),
        # The letter of the dialogue tells who wore the markers, that of the turn who speaks.
        speaker=f"{parts['session']}{parts['speaker']}",
    )
    return Row(clip, {"dialogue": parts["dialogue"]})


def _speaker(turn: str) -> str:
    match = _TURN.fullmatch(turn)
    return match["speaker"] if match else "?"


def _counts(request: Request, counts: Mapping[str, int], sessions: tuple[int, ...]) -> Mapping[str, int]:
    found = {f"label {label}": count for label, count in counts.items()}
    if request.fold is not None and sessions:
        found["split test"] = sessions[request.fold - 1]
    return {"clips": sum(counts.values()), **found}


def _source(
    name: str, title: str, labels: Mapping[str, str], counts: Mapping[str, int], sessions: tuple[int, ...]
) -> Source:
    return Source(
        name=name,
        title=title,
        licence="release form of the University of Southern California",
        layout=LAYOUT,
        read=partial(_read, labels=labels),
        evidence="public preprocessing code and a public loader; valence (1 to 5) becomes the score",
        labels=tuple(counts),
        counts=partial(_counts, counts=counts, sessions=sessions),
        disjoint=("speaker", "dialogue"),
        folds=_SESSIONS,
    )


IEMOCAP_4 = _source("iemocap-4", "IEMOCAP, four classes (happy includes excited)", _FOUR, _FOUR_COUNTS, _FOUR_SESSIONS)
IEMOCAP_6 = _source("iemocap-6", "IEMOCAP, six classes", _SIX, _SIX_COUNTS, ())
