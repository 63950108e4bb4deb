"""CREMA-D, and CREMA-D-Conflict: its clips grouped by whether the crowd's votes on face, voice and both agree.

2,443 people voted on 7,442 acted clips, each clip from the voice alone, from the face alone and from both. That is
what CA-MER's definition of a conflict needs, under an open licence. docs/crema-d-conflict.md describes the benchmark.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mosear.data.clip import Clip, ModalityLabels
from mosear.data.conflict_rules import CAMER_SUBSETS, crowd_vote
from mosear.data.sources.base import LayoutError, Reading, Request, Row, Source, split_of_fold
from mosear.data.sources.files import SOUND_SUFFIXES, MediaIndex, find_directory, find_file, unlike
from mosear.data.sources.tables import number, read_table

LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad")
_EMOTIONS = dict(zip(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"), LABELS, strict=True))
_VOTES = dict(zip("ADFHNS", LABELS, strict=True))
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
BROKEN = ("1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX")
FOLDS = ((1001, 1018), (1019, 1036), (1037, 1054), (1055, 1072), (1073, 1091))
"""First and last actor of each fold."""

_NAME = re.compile(
    r"(?P<actor>10(?:0[1-9]|[1-8]\d|9[01]))_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>LO|MD|HI|XX?)"
)

_MEDIA = """VideoFlash/1001_DFA_ANG_XX.flv       7,442 files
AudioWAV/1001_DFA_ANG_XX.wav         7,442 files (optional: AudioMP3, else the sound of the video file)"""
_LAYOUT = f"""{_MEDIA}
(a Git clone with Git LFS; the repository's zip holds pointers instead of media)"""
_CONFLICT_LAYOUT = f"""processedResults/summaryTable.csv    FileName,VoiceVote,FaceVote,MultiModalVote and others
processedResults/tabulatedVotes.csv  only for --min-agreement: fileName,A,D,F,H,N,S and others
{_LAYOUT}"""

SUMMARY_COLUMNS = ("FileName", "VoiceVote", "FaceVote", "MultiModalVote")
TABULATED_COLUMNS = ("", "fileName", *_VOTES)
_MODALITY_OF_INDEX = {"1": "voice", "2": "face", "3": "both"}


@dataclass(frozen=True)
class Votes:
    """The majority votes on one clip: letters of A D F H N S, joined by ``:`` where several have equally many.

    Attributes:
        face: Vote on the face alone.
        voice: Vote on the voice alone.
        both: Vote on both.
        agreement: Share of the majority in each of the three, or None if it was not read.
    """

    face: str
    voice: str
    both: str
    agreement: tuple[float, float, float] | None = None


def read_votes(summary: Path, tabulated: Path | None = None) -> dict[str, Votes]:
    """Clip name -> votes.

    The levels in ``summaryTable.csv`` are mean intensities, not shares of votes; shares are in ``tabulatedVotes.csv``,
    whose first column is the clip's number after 1 (voice), 2 (face) or 3 (both).
    """
    shares: dict[str, dict[str, float]] = {}
    for row in read_table(tabulated, TABULATED_COLUMNS) if tabulated else ():
        kind = _MODALITY_OF_INDEX.get(row[""][:1])
        if kind is None:
            raise LayoutError(f"{tabulated}: row {row['']!r} does not begin with 1 (voice), 2 (face) or 3 (both)")
        counts = [number(row[letter], f"{tabulated}, {row['']}") or 0.0 for letter in _VOTES]
        if not any(counts):
            raise LayoutError(f"{tabulated}, {row['']}: there are no votes")
        shares.setdefault(row["fileName"], {})[kind] = max(counts) / sum(counts)
    votes = {}
    for row in read_table(summary, SUMMARY_COLUMNS):
        name = row["FileName"]
        if name in votes:
            raise LayoutError(f"{summary}: {name} is listed twice")
        agreement = None
        if tabulated:
            if len(shares.get(name, {})) != len(_MODALITY_OF_INDEX):
                raise LayoutError(f"{tabulated} lacks the votes on voice, face or both of {name}")
            agreement = (shares[name]["face"], shares[name]["voice"], shares[name]["both"])
        found = Votes(row["FaceVote"], row["VoiceVote"], row["MultiModalVote"], agreement)
        letters = set("".join((found.face, found.voice, found.both)).replace(":", ""))
        if not letters or letters - set(_VOTES):
            raise LayoutError(f"{summary}: the votes of {name} are {found}; expected letters of A D F H N S")
        votes[name] = found
    return votes


def group_of(votes: Votes, min_agreement: float = 0.0) -> str | None:
    """The subset of a clip: one of `CAMER_SUBSETS`, a name of what is outside them, or None for a tie."""
    return crowd_vote(
        visual=votes.face,
        audio=votes.voice,
        joint=votes.both,
        agreement=votes.agreement,
        min_agreement=min_agreement,
    )


def fold_of(actor: str) -> int:
    """The fold of an actor, from 1."""
    return next(number for number, (first, last) in enumerate(FOLDS, 1) if first <= int(actor) <= last)


class _Media:
    """Where the files of a clip are."""

    def __init__(self, root: Path, layout: str) -> None:
        self.video = MediaIndex(root, find_directory(root, "VideoFlash", layout=layout))
        sound = [path for name in ("AudioWAV", "AudioMP3") if (path := self.video.directory.with_name(name)).is_dir()]
        self.sound = MediaIndex(root, sound[0], SOUND_SUFFIXES) if sound else None

    def row(
        self,
        name: str,
        fold: int | None,
        *,
        label: str | None = None,
        subset: str = "all",
        modality_labels: ModalityLabels | None = None,
    ) -> Row:
        parts = _NAME.fullmatch(name)
        if parts is None or parts["emotion"] not in _EMOTIONS or parts["sentence"] not in SENTENCES:
            raise LayoutError(f"{name!r} is no CREMA-D clip: names look like 1001_DFA_ANG_XX")
        clip = Clip(
            id=name,
            video=_file(self.video, name),
            audio=_file(self.sound, name) if self.sound else "video",
            text=SENTENCES[parts["sentence"]],
            label=label or _EMOTIONS[parts["emotion"]],
            modality_labels=modality_labels or ModalityLabels(),
            subset=subset,
            split=split_of_fold(fold_of(parts["actor"]), fold, len(FOLDS)),
            speaker=parts["actor"],
        )
        return Row(clip)


def _file(index: MediaIndex, name: str) -> str:
    """The file of a clip; some copies end one name in ``_X`` instead of ``_XX``."""
    short = name.removesuffix("X")
    return index.path(short if index.has(short) and not index.has(name) else name)


def _read_clips(request: Request) -> Reading:
    media = _Media(request.root, _LAYOUT)
    names = media.video.names
    if not any(_NAME.fullmatch(name) for name in names):
        raise unlike(request.root, "VideoFlash holds no clip such as 1001_DFA_ANG_XX.flv", _LAYOUT)
    reading = Reading([])
    for name in names:
        if name in BROKEN:
            reading.drop("known to be broken", name)
        else:
            reading.rows.append(media.row(name, request.fold))
    return reading


def _read_conflict(request: Request) -> Reading:
    media = _Media(request.root, _CONFLICT_LAYOUT)
    summary = find_file(request.root, "summaryTable.csv", layout=_CONFLICT_LAYOUT)
    tabulated = None
    if request.min_agreement:
        tabulated = find_file(request.root, "tabulatedVotes.csv", layout=_CONFLICT_LAYOUT)
    reading = Reading([])
    tally: Counter[str] = Counter()
    for name, votes in read_votes(summary, tabulated).items():
        group = group_of(votes, request.min_agreement)
        tally.update(("votes", f"subset {group or 'undecided'}"))
        if group is None:
            reading.drop("tie" if not request.min_agreement else "tie, or too little agreement", name)
        elif group not in CAMER_SUBSETS:
            reading.drop(f"outside the definition: {group}", name)
        elif name in BROKEN:
            reading.drop("known to be broken", name)
        else:
            shown = ModalityLabels(visual=_VOTES[votes.face], audio=_VOTES[votes.voice])
            reading.rows.append(
                media.row(name, request.fold, label=_VOTES[votes.both], subset=group, modality_labels=shown)
            )
    reading.tally = tally
    reading.notes.append("Labels and subsets are skewed: report UAR beside accuracy.")
    return reading


_BY_AGREEMENT = {
    0.0: (3034, 1887, 548),
    0.5: (2558, 1301, 284),
    0.6: (1805, 664, 87),
}


def _clip_counts(request: Request) -> Mapping[str, int]:
    return {"clips": 7442 - len(BROKEN)}


def _conflict_counts(request: Request) -> Mapping[str, int]:
    known = _BY_AGREEMENT.get(request.min_agreement)
    groups = {f"subset {name}": count for name, count in zip(CAMER_SUBSETS, known, strict=True)} if known else {}
    return {"votes": 7442, **groups}


CREMA_D = Source(
    name="crema-d",
    title="CREMA-D: acted clips, labelled with the intended emotion",
    licence="ODbL 1.0 (database), DbCL 1.0 (contents)",
    layout=_LAYOUT,
    read=_read_clips,
    evidence="repository layout",
    labels=LABELS,
    counts=_clip_counts,
    disjoint=("speaker",),
    folds=len(FOLDS),
)

CREMA_D_CONFLICT = Source(
    name="crema-d-conflict",
    title="CREMA-D-Conflict: CREMA-D grouped by whether votes on face, voice and both agree",
    licence="ODbL 1.0 (database), DbCL 1.0 (contents)",
    layout=_CONFLICT_LAYOUT,
    read=_read_conflict,
    evidence="counts reproduced from the published vote table",
    labels=LABELS,
    counts=_conflict_counts,
    disjoint=("speaker",),
    folds=len(FOLDS),
    rules=("crowd_vote",),
    default_rule=True,
    votes=True,
)
