"""MER2023: six emotions and valence, one training and three test sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mosear.data.clip import Clip
from mosear.data.sources.base import Reading, Request, Row, Source
from mosear.data.sources.files import MediaIndex, find_directory, find_file, visible_files
from mosear.data.sources.tables import number, read_table

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
_SETS = {"train": "all", "test1": "multi", "test2": "noise", "test3": "semi"}
_PUBLISHED = {
    "all": (3373, (871, 822, 689, 383, 462, 146)),
    "multi": (411, (88, 105, 93, 50, 57, 18)),
    "noise": (412, (123, 98, 87, 40, 52, 12)),
    "semi": (834, (166, 183, 169, 257, 45, 14)),
}
FOLDS = 5
_NO_VALENCE = -10.0
_TRANSCRIPTS = "transcription-engchi-polish.csv"
NO_VALIDATION = "No clip validates: --fold K takes the K-th of five parts of the training set for that."
_ARCHIVE = "label-6way.npz"

LAYOUT = f"""as published:
train/ test1/ test2/ test3/                 videos, .mp4 or .avi
train-label.csv ... test3-label.csv         name,discrete,valence (test3 without valence)
or as MERBench rearranges it:
video/sample_00000000.mp4
{_ARCHIVE}                              train_corpus, test1_corpus, test2_corpus, test3_corpus
and with either, if you have it:
{_TRANSCRIPTS}             name,chinese,english"""


class _Label(NamedTuple):
    part: str
    name: str
    label: str
    valence: float | None


def _read(request: Request) -> Reading:
    packed = any(path.name == _ARCHIVE for path in visible_files(request.root))
    labels = list(_packed_labels(request.root) if packed else _csv_labels(request.root))
    folders = {"": "video"} if packed else {part: part for part in _SETS}
    media = {
        part: MediaIndex(request.root, find_directory(request.root, folder, layout=LAYOUT))
        for part, folder in folders.items()
    }
    texts = _transcripts(request)
    validation = validation_part([name for part, name, *_ in labels if part == "train"], request.fold)
    reading = Reading([])
    for part, name, label, valence in labels:
        split = "test" if part != "train" else "val" if name in validation else "train"
        clip = Clip(
            id=f"{part}/{name}",
            video=media["" if packed else part].path(name),
            audio="video",
            text=texts.get(name),
            label=label,
            score=valence,
            subset=_SETS[part],
            split=split,
        )
        reading.rows.append(Row(clip, {"name": name}))
    if texts:
        silent = sum(row.clip.text is None for row in reading.rows)
        reading.notes.append(f"{silent:,} of {len(reading.rows):,} clips have no transcript.")
    else:
        reading.notes.append(f"There is no {_TRANSCRIPTS}: the clips have no text.")
    if request.fold is None:
        reading.notes.append(NO_VALIDATION)
    return reading


def _csv_labels(root: Path) -> Iterator[_Label]:
    for part in _SETS:
        path = find_file(root, f"{part}-label.csv", layout=LAYOUT)
        for row in read_table(path, ("name", "discrete")):
            name = row["name"].strip()
            yield _Label(part, name, row["discrete"].strip(), number(row.get("valence", ""), f"{path}, {name}"))


def _packed_labels(root: Path) -> Iterator[_Label]:
    from mosear.data.sources.pickles import read_label_archive  # needs numpy

    path = find_file(root, _ARCHIVE, layout=LAYOUT)
    corpora = read_label_archive(path, tuple(f"{part}_corpus" for part in _SETS))
    for part in _SETS:
        for name, entry in corpora[f"{part}_corpus"].items():
            valence = float(entry.get("val", _NO_VALENCE))
            yield _Label(part, str(name), str(entry["emo"]), None if valence == _NO_VALENCE else valence)


def _transcripts(request: Request) -> dict[str, str]:
    if not any(path.name == _TRANSCRIPTS for path in visible_files(request.root)):
        return {}
    path = find_file(request.root, _TRANSCRIPTS, layout=LAYOUT)
    column = "english" if request.language == "english" else "chinese"
    return {row["name"].strip(): row[column] for row in read_table(path, ("name", column)) if row[column].strip()}


def validation_part(names: Sequence[str], fold: int | None) -> set[str]:
    """The fold-th of five parts of a training set, ordered by a hash of the names; nothing without a fold."""
    return set() if fold is None else set(sorted(names, key=_hash)[fold - 1 :: FOLDS])


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _counts(request: Request) -> Mapping[str, int]:
    counts = {f"subset {subset}": total for subset, (total, _) in _PUBLISHED.items()}
    for index, label in enumerate(LABELS):
        counts[f"label {label}"] = sum(per_label[index] for _, per_label in _PUBLISHED.values())
    return counts


MER2023 = Source(
    name="mer2023",
    title="MER2023: MER-MULTI, MER-NOISE and MER-SEMI as test subsets multi, noise and semi",
    licence="end-user licence agreement: no passing on, labels included",
    layout=LAYOUT,
    read=_read,
    evidence="public preprocessing code and its label file",
    labels=LABELS,
    scores=(-5.0, 5.0),
    counts=_counts,
    disjoint=("name",),
    folds=FOLDS,
    languages=True,
)
