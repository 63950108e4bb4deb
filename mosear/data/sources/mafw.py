"""MAFW: scenes from films and other media, eleven single emotions, five folds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mosear.data.clip import Clip
from mosear.data.sources.base import LayoutError, Reading, Request, Row, Source, folded_counts
from mosear.data.sources.files import MediaIndex, find_directory, unlike, visible_files
from mosear.data.sources.tables import read_text

LABELS = (
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    *("contempt", "anxiety", "helplessness", "disappointment"),
)
_TOTALS = (1390, 639, 625, 1242, 1138, 1470, 1072, 236, 916, 262, 182)
_TEST_FOLDS = (1839, 1837, 1833, 1832, 1831)
_TOTAL = 9172

LAYOUT = """clips/00001.mp4
Train & Test Set/single/no_caption/set_1/train.txt and test.txt ... set_5    lines such as: 00025.mp4 anger"""

_LINE = re.compile(r"(?P<name>\d+)\.mp4\s+(?P<label>[a-z]+)")


def _list(root: Path, split: str, fold: int) -> Path:
    wanted = f"single/no_caption/set_{fold}/{split}.txt"
    found = [path for path in visible_files(root) if path.as_posix().endswith(f"/{wanted}")]
    if not found:
        raise unlike(root, f"no file {wanted}", LAYOUT)
    return found[0]


def _read(request: Request) -> Reading:
    media = MediaIndex(request.root, find_directory(request.root, "clips", layout=LAYOUT))
    reading = Reading([])
    # Every set holds each clip once, in training or in test, so the first is enough where no fold is asked for.
    for split in ("train", "test"):
        path = _list(request.root, split, request.fold or 1)
        for number, line in enumerate(read_text(path).split("\n"), 1):
            match = _LINE.fullmatch(line.strip())
            if match is None:
                if line.strip():
                    raise LayoutError(f"{path}, line {number}: {line!r} is not like: 00025.mp4 anger")
                continue
            clip = Clip(
                id=match["name"],
                video=media.path(match["name"]),
                audio="video",
                label=match["label"],
                split="test" if request.fold is None else split,
            )
            reading.rows.append(Row(clip, {"clip": match["name"]}))
    reading.notes.append("21 clips of MAFW have no sound: --on-missing skip leaves them out.")
    reading.notes.append("MAFW has no validation set; validate on a part of the training set.")
    return reading


def _counts(request: Request) -> Mapping[str, int]:
    return folded_counts(request, dict(zip(LABELS, _TOTALS, strict=True)), total=_TOTAL, test_folds=_TEST_FOLDS)


MAFW = Source(
    name="mafw",
    title="MAFW: emotions in films and other media, single-labelled clips",
    licence="research agreement",
    layout=LAYOUT,
    read=_read,
    evidence="the published split files; captions and compound labels are not read",
    labels=LABELS,
    counts=_counts,
    disjoint=("clip",),
    folds=len(_TEST_FOLDS),
)
