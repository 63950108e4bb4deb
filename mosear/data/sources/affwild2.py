"""Aff-Wild2: valence and arousal of every frame, as series."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from mosear.data.clip import Clip
from mosear.data.series import series_text
from mosear.data.sources.affwild2_tables import annotation_files, read_annotation, video_name
from mosear.data.sources.base import Reading, Request, Row, Source
from mosear.data.sources.files import MediaIndex

if TYPE_CHECKING:
    from mosear.data.decode_process import Decoder

FOLDS = 5
LAYOUT = """VA_Estimation_Challenge/Train_Set/{video}[_left|_right].txt          valence,arousal; one line per frame
VA_Estimation_Challenge/Validation_Set/{video}[_left|_right].txt
batch1/, batch2/, batch3/                                            {video}.mp4, in any folder"""


def _read(request: Request) -> Reading:
    from mosear.data.decode_process import DecodeProcess

    files = annotation_files(request.root, LAYOUT)
    media = MediaIndex(request.root, request.root)
    validation = _validation([path.stem for path in files["Train_Set"]], request.fold)
    reading = Reading([])
    silent = 0
    with DecodeProcess() as decoder:
        for name, path in ((name, path) for name, paths in files.items() for path in paths):
            values = read_annotation(path)
            if all(pair[0] is None for pair in values):
                reading.drop("no frame is annotated", path.stem)
                continue
            video = video_name(path.stem)
            rate = _rate(request.root / media.path(video), decoder)
            if rate is None:
                reading.drop("the video says no frame rate, so its annotations have no times", path.stem)
                continue
            silent += sum(pair[0] is None for pair in values)
            split = "test" if name == "Validation_Set" else "val" if video in validation else "train"
            clip = Clip(path.stem, media.path(video), "video", series=series_text(rate, values), split=split)
            reading.rows.append(Row(clip, {"video": video}))
    reading.notes.append(f"{silent:,} frames have no annotation (-5); they are null.")
    if request.fold is None:
        reading.notes.append(
            "No clip validates: --fold K takes the K-th of five parts of the training videos for that."
        )
    return reading


def _validation(names: list[str], fold: int | None) -> set[str]:
    """The fold-th of five parts of the training videos, ordered by a hash of the names; nothing without a fold."""
    if fold is None:
        return set()
    videos = {video_name(name) for name in names}
    return set(sorted(videos, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[fold - 1 :: FOLDS])


def _rate(path: Path, decoder: Decoder) -> float | None:
    """Frames per second as the header says them: annotations have one line per frame."""
    from mosear.data.container import MediaError

    if not path.is_file():
        return 1.0  # stands in no manifest: a clip without its file is an error, or left out
    try:
        return decoder.probe(path).frame_rate or None
    except MediaError:
        return None


AFFWILD2 = Source(
    name="affwild2",
    title="Aff-Wild2: valence and arousal of every frame (column series); its validation set is the test split",
    licence="research use, by agreement",
    layout=LAYOUT,
    read=_read,
    evidence="a public description of the data; counts of clips are not compared",
    disjoint=("video",),
    folds=FOLDS,
)
