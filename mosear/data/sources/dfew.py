"""DFEW: scenes from films, single-labelled part, five folds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mosear.data.clip import Clip
from mosear.data.sources.base import LayoutError, Reading, Request, Row, Source, folded_counts
from mosear.data.sources.files import MediaIndex, unlike, visible_files
from mosear.data.sources.tables import read_table

LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
_TOTALS = (2445, 1894, 2669, 2173, 1469, 145, 902)
_TEST_FOLDS = (2341, 2341, 2340, 2339, 2336)
_TOTAL = 11697

LAYOUT = """EmoLabel_DataSplit/train(single-labeled)/set_1.csv ... set_5.csv    video_name,label (1 to 7)
EmoLabel_DataSplit/test(single-labeled)/set_1.csv ... set_5.csv
(or label/single_trainset_1.csv and label/single_testset_1.csv)
any folder with the videos: 1.mp4 or 00001.mp4 (frames alone, jpg_256/, have no sound and are not read)"""


def _table(root: Path, split: str, fold: int) -> Path:
    wanted = (f"{split}(single-labeled)/set_{fold}.csv", f"single_{split}set_{fold}.csv")
    found = [path for path in visible_files(root) if path.as_posix().endswith(wanted)]
    if not found:
        raise unlike(root, f"no file {' or '.join(wanted)}", LAYOUT)
    return found[0]


def _read(request: Request) -> Reading:
    media = MediaIndex(request.root, request.root)
    if not len(media):
        raise unlike(request.root, "no video file", LAYOUT)
    reading = Reading([])
    # Every set holds each clip once, in training or in test, so the first is enough where no fold is asked for.
    for split in ("train", "test"):
        path = _table(request.root, split, request.fold or 1)
        for row in read_table(path, ("video_name", "label")):
            name, code = row["video_name"].strip(), row["label"].strip()
            if not name.isdigit() or code not in map(str, range(1, len(LABELS) + 1)):
                raise LayoutError(f"{path}: {name!r}, {code!r} is no clip number with a label from 1 to {len(LABELS)}")
            padded = f"{int(name):05d}"
            plain = str(int(name))
            clip = Clip(
                id=padded,
                video=media.path(plain if media.has(plain) else padded),
                audio="video",
                label=LABELS[int(code) - 1],
                split="test" if request.fold is None else split,
            )
            reading.rows.append(Row(clip, {"clip": padded}))
    reading.notes.append("DFEW has no validation set and no transcripts; validate on a part of the training set.")
    return reading


def _counts(request: Request) -> Mapping[str, int]:
    return folded_counts(request, dict(zip(LABELS, _TOTALS, strict=True)), total=_TOTAL, test_folds=_TEST_FOLDS)


DFEW = Source(
    name="dfew",
    title="DFEW: facial expressions in films, single-labelled clips",
    licence="research agreement",
    layout=LAYOUT,
    read=_read,
    evidence="the published split files",
    labels=LABELS,
    counts=_counts,
    disjoint=("clip",),
    folds=len(_TEST_FOLDS),
)
