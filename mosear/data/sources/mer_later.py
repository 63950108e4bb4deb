"""MER2024, MER2025 and MER2026: the single-label training sets. Their test labels are not public."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from mosear.data.clip import Clip
from mosear.data.sources.base import Reading, Request, Row, Source
from mosear.data.sources.files import MediaIndex, find_directory, find_file, visible_files
from mosear.data.sources.mer2023 import FOLDS, LABELS, NO_VALIDATION, validation_part
from mosear.data.sources.tables import number, read_table


def _read(request: Request, table: str, folder: str, texts: str, layout: str) -> Reading:
    path = find_file(request.root, table, layout=layout)
    media = MediaIndex(request.root, find_directory(request.root, folder, layout=layout))
    rows = read_table(path, ("name", "discrete"))
    transcripts = _transcripts(request, texts)
    validation = validation_part([row["name"].strip() for row in rows], request.fold)
    reading = Reading([])
    for row in rows:
        name = row["name"].strip()
        clip = Clip(
            id=name,
            video=media.path(name),
            audio="video",
            text=transcripts.get(name),
            label=row["discrete"].strip(),
            score=number(row.get("valence", ""), f"{path}, {name}"),
            split="val" if name in validation else "train",
        )
        reading.rows.append(Row(clip))
    if not transcripts:
        reading.notes.append(f"There is no {texts}: the clips have no text.")
    if request.fold is None:
        reading.notes.append(NO_VALIDATION)
    return reading


def _transcripts(request: Request, name: str) -> dict[str, str]:
    found = [path for path in visible_files(request.root) if path.name == name]
    column = "english" if request.language == "english" else "chinese"
    rows = read_table(found[0], ("name", column)) if found else []
    return {row["name"].strip(): row[column] for row in rows if row[column].strip()}


def _counts(request: Request, clips: int) -> Mapping[str, int]:
    return {"clips": clips}


def _source(year: int, table: str, folder: str, texts: str, clips: int) -> Source:
    layout = f"""{folder}/sample_00000000.mp4
{table}    name,discrete and, in some releases, valence
{texts}    name,chinese,english (optional)"""
    return Source(
        name=f"mer{year}",
        title=f"MER{year}, the training set with one label per clip",
        licence="end-user licence agreement: no passing on, labels included",
        layout=layout,
        read=partial(_read, table=table, folder=folder, texts=texts, layout=layout),
        evidence="public baseline code and read-me files",
        labels=LABELS,
        counts=partial(_counts, clips=clips),
        folds=FOLDS,
        languages=True,
    )


MER2024 = _source(2024, "label-disdim.csv", "video-labeled", "transcription_merge.csv", 5030)
MER2025 = _source(2025, "track1_train_disdim.csv", "video", "subtitle_chieng.csv", 7369)
MER2026 = _source(2026, "track1_train.csv", "video", "subtitle_chieng.csv", 9395)
