"""Whom a system follows where face and voice disagree, by how much, and how much of it its own evidence explains.

A conflict is a clip whose manifest says different things of face and voice (``modality_labels``). Raw direction comes
from the answers. What a system sees in the face alone and hears in the voice alone gives its own evidence: late fusion,
the more confident of the two, follows one modality more often if it is read better. Direction beyond evidence is the
difference of the two indices on the same clips: 0 says that the system follows whichever it reads better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mosear.data.clip import Clip
from mosear.evaluation.bootstrap import Interval, drawn_sums
from mosear.evaluation.metrics.direction import FACE, SIDES, VOICE, direction_index, sides
from mosear.evaluation.predictions import PredictionRow
from mosear.inference.late_fusion import late_fusion

N_BOOT = 10_000
ALL = "all conflicts"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Conflict:
    """A clip on which face and voice disagree, with an answer.

    Attributes:
        row: the answer.
        visual: what the face shows on its own.
        audio: what the voice carries on its own.
        text: what the words say on their own; None where that is not known.
        speaker: None where that is not known.
    """

    row: PredictionRow
    visual: str
    audio: str
    text: str | None
    speaker: str | None


def conflicts(rows: Sequence[PredictionRow], clips: Mapping[str, Clip]) -> list[Conflict]:
    """Rows whose clip has different labels for face and voice, and gives the model both."""
    found = []
    for row in rows:
        clip = clips[row.id]
        said = clip.modality_labels
        if said.conflict and clip.video and clip.audio:
            found.append(Conflict(row, str(said.visual), str(said.audio), said.text, clip.speaker))
    return found


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Whom one system follows on some conflicts.

    Attributes:
        n: conflicts.
        shares: ``{"face" | "voice" | "neither" | "unread": interval}`` of all answers.
        text: share of answers with the label of the words, among ``text_n`` conflicts in which that is known; None
            without any.
        text_n: how many these are.
        index: ``(F - V) / (F + V)``; None where no answer has either label.
        evidence: the same of late fusion of the system's own readings; None without readings.
        beyond: ``index - evidence`` on the same clips.
    """

    n: int
    shares: Mapping[str, Interval]
    text: Interval | None
    text_n: int
    index: Interval | None
    evidence: Interval | None
    beyond: Interval | None

    @property
    def side(self) -> str | None:
        """``face`` or ``voice`` where the interval of the index excludes 0; else None."""
        return _side(self.index)

    def as_json(self) -> dict[str, Any]:
        """Numbers; intervals as ``[mean, low, high]``."""
        return {
            "n": self.n,
            "shares": {name: list(share) for name, share in self.shares.items()},
            "text_n": self.text_n,
            **{
                name: None if (value := getattr(self, name)) is None else list(value)
                for name in ("text", "index", "evidence", "beyond")
            },
            "follows": self.side,
        }


def _side(index: Interval | None) -> str | None:
    if index is None or index.low <= 0 <= index.high:
        return None
    return "face" if index.low > 0 else "voice"


def share_of(index: Interval, side: str) -> Interval:
    """The index as a share: of the answers with either label, those with the label of ``side``."""
    if side == "face":
        return Interval(*((1 + value) / 2 for value in index))
    return Interval((1 - index.mean) / 2, (1 - index.high) / 2, (1 - index.low) / 2)


def verdict(found: Direction) -> str:
    """One sentence; intervals alone decide."""
    if found.index is None:
        return "answers with neither label on any conflict"
    side = found.side or ("face" if found.index.mean > 0 else "voice")
    share = share_of(found.index, side)
    low, high = f"{100 * share.low:.0f}", f"{100 * share.high:.0f}"
    raw = f"{100 * share.mean:.0f} % [{low}, {high}] of the conflicts that it decides"
    told = f"follows the {side}: {raw}" if found.side else f"no clear direction: the {side} in {raw}"
    if found.beyond is None or found.evidence is None:
        return f"{told}; not compared with its own evidence, which was not measured"
    sign = 1 if side == "face" else -1
    gains = sorted(50 * sign * value for value in (found.beyond.low, found.beyond.high))
    size, bounds = 50 * sign * found.beyond.mean, f"[{gains[0]:+.0f}, {gains[1]:+.0f}]".replace("-", "−")
    if gains[0] > 0:
        return f"{told}, {size:.0f} points {bounds} more than its own evidence supports"
    if gains[1] < 0:
        return f"{told}, {-size:.0f} points {bounds} less than its own evidence supports"
    return f"{told}, no clear difference from what its own evidence supports {bounds}"


def directions(
    found: Sequence[Conflict], labels: Sequence[str], *, n_boot: int = N_BOOT, seed: int = 0
) -> dict[str, Direction]:
    """Over all conflicts and, where there are several, per subset.

    Args:
        found: of one system.
        labels: the label list, which orders the readings.
        n_boot: bootstrap replicates. Speakers are drawn where all clips have one and there are several, else clips.
        seed: of the bootstrap.

    Raises:
        ValueError: if there are no conflicts.
    """
    if not found:
        raise ValueError(
            "No clip has different labels for face and voice, so there is nothing to follow. A manifest says them in "
            'modality_labels, such as {"visual": "happy", "audio": "sad"}.'
        )
    parts = {ALL: list(found)}
    subsets = dict.fromkeys(one.row.subset for one in found)
    if len(subsets) > 1:
        parts |= {subset: [one for one in found if one.row.subset == subset] for subset in subsets}
    return {name: _direction(own, labels, n_boot, seed) for name, own in parts.items()}


def by_speaker(found: Sequence[Conflict]) -> bool:
    """Whether the bootstrap draws speakers."""
    speakers = {one.speaker for one in found}
    return None not in speakers and len(speakers) > 1


def _direction(found: Sequence[Conflict], labels: Sequence[str], n_boot: int, seed: int) -> Direction:
    visual, audio = [one.visual for one in found], [one.audio for one in found]
    said = sides([one.row.prediction for one in found], visual, audio)
    text_known = [one.text is not None for one in found]
    text_said = [one.text is not None and one.row.prediction == one.text for one in found]
    columns = [np.ones(len(found)), *(said == place for place in range(len(SIDES))), text_known, text_said]
    fused = _late_fusion(found, labels)
    if fused is not None:
        own = sides(fused, visual, audio)
        columns += [own == FACE, own == VOICE]
    table = np.stack(columns, axis=1).astype(np.float64)
    speakers = [str(one.speaker) for one in found] if by_speaker(found) else None
    point, drawn = table.sum(axis=0), drawn_sums(table, speakers, n_boot=n_boot, seed=seed)

    def interval(value: float, replicates: FloatArray) -> Interval | None:
        kept = replicates[np.isfinite(replicates)]
        return Interval(value, *map(float, np.quantile(kept, [0.025, 0.975]))) if np.isfinite(value) else None

    def share(part: int, whole: int = 0) -> Interval | None:
        with np.errstate(invalid="ignore", divide="ignore"):
            return interval(float(point[part] / point[whole]), drawn[:, part] / drawn[:, whole])

    def index(place: int) -> tuple[float, FloatArray]:
        return float(direction_index(point[place], point[place + 1])), direction_index(
            drawn[:, place], drawn[:, place + 1]
        )

    raw, evidence = index(1), index(7) if fused is not None else None
    shares = {name: share(1 + place) for place, name in enumerate(SIDES)}
    # Columns: 0 all; 1 face, 2 voice, 3 neither, 4 unread; 5 text known, 6 text said; 7 face, 8 voice of late fusion.
    return Direction(
        n=len(found),
        shares={name: value for name, value in shares.items() if value is not None},
        text=share(6, 5),
        text_n=int(point[5]),
        index=interval(*raw),
        evidence=interval(*evidence) if evidence else None,
        beyond=interval(raw[0] - evidence[0], raw[1] - evidence[1]) if evidence else None,
    )


def _late_fusion(found: Sequence[Conflict], labels: Sequence[str]) -> list[str | None] | None:
    """What the more confident reading says; None where no row has readings."""
    absent = [np.nan] * len(labels)
    readings = [
        [absent if (p := getattr(one.row, name)) is None else list(p) for one in found]
        for name in ("p_visual", "p_audio")
    ]
    if all(one.row.p_visual is None and one.row.p_audio is None for one in found):
        return None
    places = late_fusion(np.array(readings[0], dtype=np.float64), np.array(readings[1], dtype=np.float64))
    return [labels[place] if place >= 0 else None for place in places]
