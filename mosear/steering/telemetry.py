"""A steering session inside an evaluation: what it is told, what is read without it, and what it did.

The unimodal readings are the late-fusion control and CHASE's evidence at once. So they are read first and unsteered,
and then handed to the session: nothing is paid for twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mosear.roles import TokenRole
from mosear.steering.policies.detection import NO_TARGET
from mosear.steering.rows import KEYS
from mosear.steering.stats import AFTER, BEFORE, FLAGGED

if TYPE_CHECKING:
    from mosear.data.clip import Clip
    from mosear.steering.session import SteeringSession

DIGITS = 5


class SteeringTelemetry:
    """Attention mass before and after steering, a mean over the clips that carry both face and voice.

    Each clip counts once, with the mean over its steered rows: in clips without one of the two nothing can move.

    Attributes:
        clips: how many were counted.
        total: float64 ``[layers, heads, 7]``, sums over clips of mass before and after (KEYS) and of the flagged
            share; ``None`` before the first.
    """

    def __init__(self, clips: int = 0, total: Tensor | None = None) -> None:
        self.clips, self.total = clips, total

    def add(self, clips: Sequence[Clip], means: Tensor) -> None:
        """Count a batch.

        Args:
            clips: ``B``.
            means: ``[B, layers, heads, 7]`` of the record of the passes that answered them.
        """
        both = torch.tensor([clip.video is not None and clip.audio is not None for clip in clips])
        counted = (means[both & ~means.flatten(1).isnan().any(1)] if len(means) else means).double()
        self.merge(SteeringTelemetry(len(counted), counted.sum(0)))

    def merge(self, other: SteeringTelemetry) -> None:
        """Count what another one has counted."""
        if other.clips:
            assert other.total is not None
            self.clips += other.clips
            self.total = other.total if self.total is None else self.total + other.total

    def summary(self) -> dict[str, Any]:
        """For ``metrics.json``; empty if no clip was counted.

        ``{"clips": n, "modalities": [...], "before": [layers][heads][3], "after": .., "flagged": [layers][heads]}``
        """
        if self.total is None:
            return {}
        means = (self.total / self.clips).round(decimals=DIGITS)
        return {
            "clips": self.clips,
            "modalities": list(KEYS),
            "before": means[..., BEFORE].tolist(),
            "after": means[..., AFTER].tolist(),
            "flagged": means[..., FLAGGED].tolist(),
        }


class SteeredEvaluation:
    """What a module that evaluates needs of an installed session.

    Args:
        session: installed.
    """

    def __init__(self, session: SteeringSession) -> None:
        self.session, self.telemetry = session, SteeringTelemetry()
        self.detection = session.policy.detection

    @contextmanager
    def unsteered(self) -> Iterator[None]:
        """The model as it is without the session, for a block."""
        self.session.remove()
        try:
            yield
        finally:
            self.session.install()

    @contextmanager
    def knowing(self, clips: Sequence[Clip], predictions: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Tell the session, for a block, what is known about the clips of its passes.

        Args:
            clips: ``B``; for the oracle they must say what each modality shows (``modality_labels``).
            predictions: ``[B, C]`` by modality, from each alone; used if the policy would read just that.
        """
        needed = self.detection
        own = needed is not None and needed.detector == "masked" and needed.readings == "alone"
        oracle = needed is not None and needed.directions
        with self.session.given(
            readings=predictions if own and predictions else None,
            directions=[true_direction(clip) for clip in clips] if oracle else None,
        ):
            yield

    def note(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """Count the batch that was answered last; per clip what the predictions say about it.

        These are ``attention_before`` and ``attention_after``, and, if the policy decided, ``conflict`` and ``target``.
        """
        record = self.session.last
        assert record is not None, "note() follows a pass of a session that records"
        means = record.means()
        self.telemetry.add(clips, means)
        notes = attention_of(means, len(clips))
        if record.decision is None:
            return notes
        found = zip(record.decision.conflict.tolist(), record.decision.target.tolist(), strict=True)
        for note, (conflict, target) in zip(notes, found, strict=True):
            note["conflict"] = None if math.isnan(conflict) else conflict
            note["target"] = None if target == NO_TARGET else TokenRole(target).name.lower()
        return notes


def attention_of(means: Tensor, clips: int) -> list[dict[str, Any]]:
    """Per clip its shares of attention, mean over layers and heads with exact rows; nothing where there are none."""
    before, after = (means[..., part].nanmean(dim=(1, 2)) for part in (BEFORE, AFTER))  # [B, 3]
    if len(before) != clips:
        return [{} for _ in range(clips)]
    return [
        {} if own.isnan().any() else {"attention_before": own.tolist(), "attention_after": edited.tolist()}
        for own, edited in zip(before, after, strict=True)
    ]


def true_direction(clip: Clip) -> str | None:
    """The modality that alone shows the right label: ``audio``, ``visual``, or ``None`` if both or neither do."""
    shown = clip.modality_labels
    audio, visual = (label is not None and label == clip.label for label in (shown.audio, shown.visual))
    if audio == visual:
        return None
    return "audio" if audio else "visual"
