"""CA-MER: an adapter to files that are not public; the benchmark's definition is, and that is what it follows."""

from __future__ import annotations

from collections.abc import Mapping

from mosear.data.clip import Clip, ModalityLabels
from mosear.data.conflict_rules import CAMER_SUBSETS, camer
from mosear.data.sources.base import Reading, Request, Row, Source
from mosear.data.sources.files import MediaIndex, find_file
from mosear.data.sources.tables import read_table

LABELS = ("angry", "happy", "surprise", "fear", "sad", "worry", "neutral", "doubt", "contempt")
SYNONYMS = {
    "anger": "angry",
    "happiness": "happy",
    "surprised": "surprise",
    "fearful": "fear",
    "afraid": "fear",
    "sadness": "sad",
    "worried": "worry",
    "doubtful": "doubt",
    "contemptuous": "contempt",
}

LAYOUT = """labels.csv                    name,q_a,q_v,q_av and, if you have it, text
any folder with the videos    {name}.mp4
The published files have not been seen: bring them into this form. q_a, q_v and q_av are the emotions of the sound
alone, the picture alone and both."""


def word(label: str) -> str:
    """A label in the benchmark's vocabulary, as its published closed-set protocol maps synonyms."""
    plain = label.strip().lower()
    return SYNONYMS.get(plain, plain)


def _read(request: Request) -> Reading:
    media = MediaIndex(request.root, request.root)
    reading = Reading([])
    for row in read_table(find_file(request.root, "labels.csv", layout=LAYOUT), ("name", "q_a", "q_v", "q_av")):
        name = row["name"].strip()
        audio, visual, joint = (word(row[column]) for column in ("q_a", "q_v", "q_av"))
        subset = camer(visual=visual, audio=audio, joint=joint)
        if subset not in CAMER_SUBSETS:
            reading.drop(f"outside the definition: {subset or 'a label is missing'}", name)
            continue
        clip = Clip(
            id=name,
            video=media.path(name),
            audio="video",
            text=row.get("text", "").strip() or None,
            label=joint,
            modality_labels=ModalityLabels(visual=visual, audio=audio),
            subset=subset,
        )
        reading.rows.append(Row(clip))
    return reading


def _counts(request: Request) -> Mapping[str, int]:
    return {f"subset {name}": 500 for name in CAMER_SUBSETS}


CA_MER = Source(
    name="ca-mer",
    title="CA-MER: consistent, video-aligned and audio-aligned clips of MER2023",
    licence="that of MER2023",
    layout=LAYOUT,
    read=_read,
    evidence="UNVERIFIED file format; definition and sizes from third-party papers",
    labels=LABELS,
    counts=_counts,
    rules=("camer",),
    default_rule=True,
    verified=False,
)
