"""The sentiment sets that share one layout: CH-SIMS, CH-SIMS v2, CMU-MOSI and CMU-MOSEI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mosear.data.clip import Clip, ModalityLabels
from mosear.data.conflict_rules import IntensityRule, emomm, polarity, polarity_any, strong_range
from mosear.data.sources.base import LayoutError, Reading, Request, Row, Source
from mosear.data.sources.emotions import EMOTIONS, read_emotions
from mosear.data.sources.files import MediaIndex, find_directory, find_file, visible_files
from mosear.data.sources.tables import number, read_table, repaired

LABELS = ("negative", "neutral", "positive")
_COLUMNS = ("video_id", "clip_id", "text", "label", "mode")
_UNIMODAL = {"text": "label_T", "audio": "label_A", "visual": "label_V"}
_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_RULES = ("polarity_any", "strong_range", "intensity", "emomm")

_TABLE = """Raw/{video_id}/{clip_id}.mp4
label.csv (or meta.csv): video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode (in any order)"""
_OLD_SIMS = """
or, in CH-SIMS's first release, instead of label.csv:
metadata/sentiment/label_M.csv (and _T, _A, _V): video_id,clip_id,label
metadata/{train,val,test}_index.csv: index        metadata/Translation.csv: video_id,clip_id,Chinese,English"""

_EMOTIONS = f"""
and for --emotions in label.csv or a table of its own (.csd files are not read):
video_id,clip_id,{",".join(EMOTIONS)}: intensities 0..3, present above 0"""


class Scores(NamedTuple):
    """Sentiment of text, sound and picture on their own, on [-1, 1]; None where it has no label."""

    text: float | None
    audio: float | None
    visual: float | None


class _Entry(NamedTuple):
    video: str
    clip: str
    text: str
    score: float
    scores: Scores
    split: str

    @property
    def id(self) -> str:
        return f"{self.video}/{self.clip}"


def polarity_label(score: float | None, scale: float) -> str | None:
    """On CH-SIMS (scale 1) neutral is |s| <= 0.1; on CMU's sets (scale 3) it is 0 alone."""
    if score is None:
        return None
    return LABELS[1 + (polarity(score) if scale == 1 else (score > 0) - (score < 0))]


def _read(request: Request, scale: float, layout: str) -> Reading:
    entries = _entries(request, layout)
    raw = MediaIndex(request.root, find_directory(request.root, "Raw", layout=layout))
    subset_of = _subset_function(request.rule, entries, scale)
    emotions = _emotions(request, entries, layout)
    reading = Reading([])
    mended = 0
    for entry in entries:
        text = repaired(entry.text)
        mended += text != entry.text
        subset = subset_of(entry) if subset_of else "all"
        if subset is None:
            reading.drop(f"{request.rule}: a unimodal label is missing", entry.id)
            continue
        shown = {name: polarity_label(getattr(entry.scores, name), scale) for name in Scores._fields}
        clip = Clip(
            id=entry.id,
            video=raw.path(entry.id),
            audio="video",
            text=text,
            label=polarity_label(entry.score, scale),
            labels=emotions.get(entry.id, ()),
            score=entry.score,
            modality_labels=ModalityLabels(**shown),
            subset=subset,
            split=entry.split,
        )
        reading.rows.append(Row(clip, {"video": entry.video}))
    if emotions:
        without = sum(not row.clip.labels for row in reading.rows)
        reading.notes.append(f"{without:,} clips show none of the six emotions; their labels are empty.")
    if mended:
        reading.notes.append(f"The encoding of {mended} transcripts was mended.")
    reading.notes += _lost_zeros(entries, raw)
    return reading


def _entries(request: Request, layout: str) -> list[_Entry]:
    names = {path.name for path in visible_files(request.root) if path.suffix == ".csv"}
    if not names & {"label.csv", "meta.csv"} and "label_M.csv" in names:
        return _old_entries(request, layout)
    if request.language != "original":
        raise ValueError(
            "--language english: only CH-SIMS's first release (metadata/Translation.csv) has a translation"
        )
    path = find_file(request.root, "label.csv", "meta.csv", layout=layout)
    entries = []
    for row in read_table(path, _COLUMNS):
        where = f"{path}, {row['video_id']}/{row['clip_id']}"
        if row["mode"].strip() not in _SPLITS:
            raise LayoutError(f"{where}: mode {row['mode']!r}; expected {', '.join(_SPLITS)}")
        scores = Scores(**{name: number(row.get(column, ""), where) for name, column in _UNIMODAL.items()})
        entries.append(_entry(row, row["text"], row["label"], scores, _SPLITS[row["mode"].strip()], where))
    return entries


def _emotions(request: Request, entries: list[_Entry], layout: str) -> dict[str, tuple[str, ...]]:
    """The emotions of every entry, if they are asked for."""
    if not request.emotions:
        return {}
    path = request.emotions
    if not isinstance(path, Path):
        path = find_file(request.root, "label.csv", "meta.csv", layout=layout)
    found = read_emotions(path)
    if lacking := [entry.id for entry in entries if entry.id not in found]:
        raise LayoutError(f"--emotions: {path} has no row for {len(lacking):,} clips, e.g. {lacking[0]}")
    return found


def _old_entries(request: Request, layout: str) -> list[_Entry]:
    """CH-SIMS's first release: one table per modality, and the row numbers of each split."""
    key = ("video_id", "clip_id")
    files = {letter: find_file(request.root, f"label_{letter}.csv", layout=layout) for letter in "MTAV"}
    tables = {letter: read_table(path, (*key, "label")) for letter, path in files.items()}
    scores = {
        letter: {tuple(row[name].strip() for name in key): number(row["label"], str(files[letter])) for row in rows}
        for letter, rows in tables.items()
    }
    column = "English" if request.language == "english" else "Chinese"
    texts_path = find_file(request.root, "Translation.csv", layout=layout)
    texts = {tuple(row[name].strip() for name in key): row[column] for row in read_table(texts_path, (*key, column))}
    splits: dict[int, str] = {}
    for split in ("train", "val", "test"):
        path = find_file(request.root, f"{split}_index.csv", layout=layout)
        for row in read_table(path, ("index",)):
            if not row["index"].isdigit() or int(row["index"]) >= len(tables["M"]):
                raise LayoutError(
                    f"{path}: index {row['index']!r} is no row of label_M.csv (0..{len(tables['M']) - 1})"
                )
            if splits.setdefault(int(row["index"]), split) != split:
                raise LayoutError(f"{path}: index {row['index']} is in {splits[int(row['index'])]}_index.csv too")
    entries = []
    for index, row in enumerate(tables["M"]):
        name = tuple(row[column].strip() for column in key)
        if index not in splits or name not in texts:
            raise LayoutError(f"{files['M']}: {'/'.join(name)} is in no split, or has no line in {texts_path.name}")
        unimodal = Scores(scores["T"].get(name), scores["A"].get(name), scores["V"].get(name))
        entries.append(_entry(row, texts[name], row["label"], unimodal, splits[index], str(files["M"])))
    return entries


def _entry(row: Mapping[str, str], text: str, label: str, scores: Scores, split: str, where: str) -> _Entry:
    score = number(label, where)
    if score is None:
        raise LayoutError(f"{where}: there is no label")
    return _Entry(row["video_id"].strip(), row["clip_id"].strip(), text, score, scores, split)


def _subset_function(rule: str | None, entries: list[_Entry], scale: float) -> Callable[[_Entry], str | None] | None:
    """A function from an entry to its subset (None: cannot be decided), or None without a rule."""
    if rule is None:
        return None
    if rule == "emomm":
        return lambda entry: emomm(joint=entry.score / scale, **entry.scores._asdict())
    if rule == "intensity":
        train = {}
        for entry in entries:
            text, audio, visual = entry.scores
            if entry.split == "train" and text is not None and audio is not None and visual is not None:
                train[entry.id] = (text, audio, visual)
        fitted = IntensityRule.fit(train)
        return lambda entry: fitted(entry.id, **entry.scores._asdict())
    compare = {"polarity_any": polarity_any, "strong_range": strong_range}[rule]
    return lambda entry: compare(**entry.scores._asdict())


def _lost_zeros(entries: list[_Entry], raw: MediaIndex) -> list[str]:
    """Tells when ids look as if a spreadsheet had read them as numbers (``0001`` -> ``1``)."""
    lost = [e for e in entries if e.clip.isdigit() and not raw.has(e.id) and raw.has(f"{e.video}/{int(e.clip):04d}")]
    if not lost:
        return []
    first = lost[0]
    return [
        f"{len(lost)} clip ids have lost their leading zeros: the table says {first.clip!r}, the file is named "
        f"{int(first.clip):04d}. Take the original table; a spreadsheet has rewritten this one."
    ]


def _counts(
    request: Request, splits: tuple[int, int, int], ruled: Mapping[str, Mapping[str, int]]
) -> Mapping[str, int]:
    counts = {f"split {name}": count for name, count in zip(("train", "val", "test"), splits, strict=True)}
    return {**counts, **ruled.get(request.rule or "", {})}


def _source(
    name: str,
    title: str,
    licence: str,
    scale: float,
    splits: tuple[int, int, int],
    *,
    unimodal: bool = False,
    old_release: bool = False,
    emotions: bool = False,
    ruled: Mapping[str, Mapping[str, int]] | None = None,
    evidence: str = "public loaders and preprocessing code",
) -> Source:
    layout = _TABLE + (_OLD_SIMS if old_release else "") + (_EMOTIONS if emotions else "")
    return Source(
        name=name,
        title=title,
        licence=licence,
        layout=layout,
        read=partial(_read, scale=scale, layout=layout),
        evidence=evidence,
        labels=LABELS,
        scores=(-scale, scale),
        counts=partial(_counts, splits=splits, ruled=ruled or {}),
        disjoint=("video",),
        rules=_RULES if unimodal else (),
        languages=old_release,
        emotions=emotions,
    )


CH_SIMS = _source(
    "ch-sims",
    "CH-SIMS: Chinese sentiment with a label for text, sound and picture each",
    "research use",
    1.0,
    (1368, 456, 457),
    unimodal=True,
    old_release=True,
    ruled={
        "polarity_any": {
            "subset different_polarity": 1117,
            "split train subset different_polarity": 676,
            "split val subset different_polarity": 231,
            "split test subset different_polarity": 210,
        }
    },
)
CH_SIMS_V2 = _source(
    "ch-sims-v2",
    "CH-SIMS v2 (the labelled part): Chinese sentiment with a label for each modality",
    "research use",
    1.0,
    (2722, 647, 1034),
    unimodal=True,
    ruled={"strong_range": {"subset strong_range": 661}},
)
CMU_MOSI = _source("cmu-mosi", "CMU-MOSI: sentiment in video blogs", "research use", 3.0, (1284, 229, 686))
CMU_MOSEI = _source(
    "cmu-mosei",
    "CMU-MOSEI: sentiment in video blogs, and six emotions as label sets",
    "research use",
    3.0,
    (16326, 1871, 4659),
    emotions=True,
)
