"""MELD: dialogues from a sitcom, seven emotions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mosear.data.clip import Clip
from mosear.data.sources.base import LayoutError, Reading, Request, Row, Source
from mosear.data.sources.files import MediaIndex, find_directory, find_file
from mosear.data.sources.tables import read_table, repaired

LABELS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
_SPLITS = {
    "train": ("train_sent_emo.csv", ("train_splits",)),
    "val": ("dev_sent_emo.csv", ("dev_splits_complete",)),
    "test": ("test_sent_emo.csv", ("output_repeated_splits_test",)),
}
_PUBLISHED = {"train": 9989, "val": 1109, "test": 2610}
_TEST_LABELS = {"neutral": 1256, "joy": 402, "anger": 345, "surprise": 281, "sadness": 208, "disgust": 68, "fear": 50}
_LONG_SECONDS = 60.0

LAYOUT = f"""anywhere below the root, as the archives unpack:
train_sent_emo.csv  train_splits/dia0_utt0.mp4
dev_sent_emo.csv    dev_splits_complete/dia0_utt0.mp4
test_sent_emo.csv   output_repeated_splits_test/dia0_utt0.mp4
with the columns {", ".join(_COLUMNS)}"""


def seconds(time: str) -> float | None:
    """``01:02:03,456`` in seconds; None if it is written otherwise."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+)[,.](\d{3})", time.strip())
    if match is None:
        return None
    hours, minutes, whole, thousandths = map(int, match.groups())
    return 3600 * hours + 60 * minutes + whole + thousandths / 1000


def _read(request: Request) -> Reading:
    reading = Reading([])
    odd: list[str] = []
    mended = 0
    for split, (table, folders) in _SPLITS.items():
        path = find_file(request.root, table, layout=LAYOUT)
        media = MediaIndex(request.root, find_directory(request.root, *folders, layout=LAYOUT))
        earlier: dict[str, list[str]] = {}
        rows = read_table(path, _COLUMNS)
        for row in sorted(rows, key=lambda row: (_id(row, "Dialogue_ID", path), _id(row, "Utterance_ID", path))):
            text = repaired(row["Utterance"])
            mended += text != row["Utterance"]
            dialogue = f"{split}/{row['Dialogue_ID']}"
            context = earlier.setdefault(dialogue, [])
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            clip = Clip(
                id=f"{split}_{name}",
                video=media.path(name),
                audio="video",
                text=text,
                label=row["Emotion"].strip().lower(),
                split=split,
                context=tuple(context),
                speaker=row["Speaker"].strip() or None,
            )
            context.append(f"{repaired(row['Speaker'])}: {text}")
            reading.rows.append(Row(clip, {"dialogue": dialogue}))
            start, end = seconds(row["StartTime"]), seconds(row["EndTime"])
            if start is None or end is None or not 0 < end - start <= _LONG_SECONDS:
                odd.append(clip.id)
    if odd:
        reading.notes.append(
            f"{len(odd)} clips last 0 s or less, or over {_LONG_SECONDS:g} s by the table ({', '.join(odd[:5])}); "
            "they are listed as they are."
        )
    if mended:
        reading.notes.append(f"The encoding of {mended} transcripts was mended.")
    return reading


def _id(row: Mapping[str, str], column: str, path: Path) -> int:
    if not row[column].isdigit():
        raise LayoutError(f"{path}: {column} {row[column]!r} is not a number")
    return int(row[column])


def _counts(request: Request) -> Mapping[str, int]:
    splits = {f"split {split}": count for split, count in _PUBLISHED.items()}
    return {**splits, **{f"split test label {label}": count for label, count in _TEST_LABELS.items()}}


MELD = Source(
    name="meld",
    title="MELD: multi-party dialogues from a sitcom",
    licence="GPL-3.0 (annotations); the videos belong to their makers",
    layout=LAYOUT,
    read=_read,
    evidence="the published tables; folder names of the archives",
    labels=LABELS,
    counts=_counts,
    disjoint=("dialogue",),
)
