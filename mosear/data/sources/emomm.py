"""EmoMM: an adapter to files that are not public; the benchmark's definition is, and that is what it follows."""

from __future__ import annotations

from mosear.data.clip import Clip, ModalityLabels
from mosear.data.conflict_rules import emomm, polarity, without_modality
from mosear.data.sources.base import LayoutError, Reading, Request, Row, Source
from mosear.data.sources.files import MediaIndex, find_file
from mosear.data.sources.tables import number, read_table

LABELS = ("negative", "neutral", "positive")
_DROPS = {"none": None, "": None, "T": "text", "A": "audio", "V": "video"}
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test", "": "test"}

LAYOUT = """labels.csv                 base_id,lang,text,label_T,label_A,label_V,label_M,drop and, if you have it, split
any folder with videos     {base_id}.mp4
The published files have not been seen: bring them into this form. Labels are sentiments on [-1, 1] (divide CMU-MOSI's
by 3), empty where there is none; drop is none, T, A or V: the modality that this row withholds."""


def _label(score: float | None) -> str | None:
    return None if score is None else LABELS[1 + polarity(score)]


def _read(request: Request) -> Reading:
    media = MediaIndex(request.root, request.root)
    path = find_file(request.root, "labels.csv", layout=LAYOUT)
    columns = ("base_id", "lang", "text", "label_T", "label_A", "label_V", "label_M", "drop")
    reading = Reading([])
    for row in read_table(path, columns):
        name = row["base_id"].strip()
        where = f"{path}, {name}"
        text, audio, visual, joint = (number(row[f"label_{letter}"], where) for letter in "TAVM")
        subset = emomm(joint=joint, text=text, audio=audio, visual=visual)
        if subset is None:
            reading.drop("the joint label or every unimodal label is missing", name)
            continue
        if row["drop"].strip() not in _DROPS or row.get("split", "").strip() not in _SPLITS:
            raise LayoutError(f"{where}: drop {row['drop']!r}, split {row.get('split', '')!r}; expected:\n{LAYOUT}")
        clip = Clip(
            id=name,
            video=media.path(name),
            audio="video",
            text=row["text"].strip() or None,
            label=_label(joint),
            score=joint,
            modality_labels=ModalityLabels(visual=_label(visual), audio=_label(audio), text=_label(text)),
            subset=subset,
            split=_SPLITS[row.get("split", "").strip()],
        )
        withheld = _DROPS[row["drop"].strip()]
        reading.rows.append(Row(without_modality(clip, withheld) if withheld else clip, {"source": name}))
    return reading


EMOMM = Source(
    name="emomm",
    title="EmoMM: aligned, conflicting and incomplete clips of CH-SIMS v2 and CMU-MOSI",
    licence="those of CH-SIMS v2 and CMU-MOSI",
    layout=LAYOUT,
    read=_read,
    evidence="UNVERIFIED file format; definition from third-party papers, the neutral zone is our reading",
    labels=LABELS,
    scores=(-1.0, 1.0),
    disjoint=("source",),
    rules=("emomm",),
    default_rule=True,
    verified=False,
)
