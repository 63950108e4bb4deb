"""EMER and other open-vocabulary sets of the MER family: several free emotion words per clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mosear.data.clip import Clip
from mosear.data.sources.base import Reading, Request, Row, Source
from mosear.data.sources.files import MediaIndex, unlike, visible_files
from mosear.data.sources.tables import open_set, read_table

LAYOUT = """one of
gt-eng.csv or gt-chi.csv       names,emotions,subtitles,reasons        (EMER, first version, 100 clips)
*.csv with                     name,openset                            (OV-MERD, MER2025 and MER2026 tracks 2)
optional: subtitle_chieng.csv  name,chinese,english
any folder with the videos: {name}.mp4
(final-EMER-reason.csv holds descriptions without labels; a manifest cannot hold those)"""

_FIRST = {"english": "gt-eng.csv", "original": "gt-chi.csv"}
_OPEN = ("ovlabel.csv", "track2_train_ovmerd.csv", "track2_train_human.csv", "track2_train_mercaptionplus.csv")
_KNOWN = {"gt-eng.csv": 100, "gt-chi.csv": 100, "track2_train_ovmerd.csv": 332, "ovlabel.csv": 532}
_SUBTITLES = "subtitle_chieng.csv"


def _table(request: Request) -> Path:
    """The label table: the first of the known ones that is there, in the language that was asked for."""
    files = {path.name: path for path in visible_files(request.root)}
    order = (_FIRST[request.language], *_OPEN)
    found = [files[name] for name in order if name in files]
    if not found:
        raise unlike(request.root, f"none of {', '.join(order)}", LAYOUT)
    return found[0]


def _read(request: Request) -> Reading:
    path = _table(request)
    media = MediaIndex(request.root, request.root)
    first = path.name in _FIRST.values()
    key, words = ("names", "emotions") if first else ("name", "openset")
    texts = {} if first else _subtitles(request)
    reading = Reading([])
    for row in read_table(path, (key, words, *(("subtitles",) if first else ()))):
        name, labels = row[key].strip(), open_set(row[words])
        if not labels:
            reading.drop("no emotion word", name)
            continue
        text = row["subtitles"].strip() if first else texts.get(name)
        reading.rows.append(Row(Clip(id=name, video=media.path(name), audio="video", text=text or None, labels=labels)))
    reading.tally = {"clips": len(reading.rows) + sum(map(len, reading.dropped.values()))}
    reading.notes.append(f"Labels are those of {path.name}; descriptions (reasons) are not part of a manifest.")
    return reading


def _subtitles(request: Request) -> dict[str, str]:
    found = [path for path in visible_files(request.root) if path.name == _SUBTITLES]
    column = "english" if request.language == "english" else "chinese"
    return {row["name"].strip(): row[column] for row in read_table(found[0], ("name", column))} if found else {}


def _counts(request: Request) -> Mapping[str, int]:
    count = _KNOWN.get(_table(request).name)
    return {} if count is None else {"clips": count}


EMER = Source(
    name="emer",
    title="EMER, OV-MERD and MER-Caption: open-vocabulary emotion words",
    licence="end-user licence agreement: no passing on, labels included",
    layout=LAYOUT,
    read=_read,
    evidence="public evaluation code",
    counts=_counts,
    languages=True,
)
