"""What steering saw and did: attention mass per modality before and after, flagged share, conflicts."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mosear.steering.policies.detection import Decision
from mosear.steering.policies.reliability import Readings
from mosear.steering.rows import KEYS

BEFORE, AFTER, FLAGGED = slice(0, 3), slice(3, 6), 6

Sums = dict[int, list[tuple[Tensor, Tensor]]]
"""Per layer, ``sums [B, H, 7]`` over rows and ``counts [B]`` of rows, of passes that are still to be added up."""

ADDED_AT_ONCE = 32
"""Adding up many passes at a time costs a pass nothing but a place in a list."""


@dataclass(frozen=True)
class SteeringStats:
    """Means over all steered rows since the session began (or :meth:`SteeringSession.reset_stats`), on the CPU.

    A layer in which no row was computed exactly has NaN.

    Attributes:
        before: float64 ``[layers, heads, 3]``, attention mass on audio, visual and other tokens (KEYS).
        after: the same after the policy.
        flagged: float64 ``[layers, heads]``, share of rows that the policy edited.
        rows: int64 ``[layers]``, steered rows that were counted.
        conflict: float32 ``[prompts]``, the conflict score of each prompt that CHASE judged, in order (a prompt under
            beam search counts once per beam); NaN where a modality was absent. Empty without CHASE.
    """

    before: Tensor
    after: Tensor
    flagged: Tensor
    rows: Tensor
    conflict: Tensor

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names along the last axis of ``before`` and ``after``."""
        return KEYS


@dataclass
class SequenceRecord:
    """The last prompts that were read, and what followed them, one entry per sample.

    Attributes:
        layers: of the decoder.
        heads: per layer.
        decision: CHASE's, ``None`` without it.
        readings: the label distributions behind it, not calibrated.
        sums: what was seen, by layer.
    """

    layers: int
    heads: int
    decision: Decision | None = None
    readings: Readings | None = None
    sums: Sums = field(default_factory=dict)

    @property
    def before(self) -> Tensor:
        """float32 ``[B, layers, heads, 3]`` mean mass on audio, visual and other tokens; NaN without steered rows."""
        return self.means()[..., BEFORE]

    @property
    def after(self) -> Tensor:
        """The same after the policy."""
        return self.means()[..., AFTER]

    @property
    def flagged(self) -> Tensor:
        """float32 ``[B, layers, heads]``, share of rows that the policy edited; NaN without steered rows."""
        return self.means()[..., FLAGGED]

    def add(self, layer: int, sums: Tensor, counts: Tensor) -> None:
        """Rows of one pass; a pass over other rows than the prompts' (some were dropped) is left out."""
        known = self.sums.setdefault(layer, [])
        if known and known[0][0].shape != sums.shape:
            return
        known.append((sums, counts))
        if len(known) == ADDED_AT_ONCE:
            known[:] = [added(known)]

    def means(self) -> Tensor:
        """float32 ``[B, layers, heads, 7]``: ``before``, ``after`` and ``flagged`` at once, for who needs them all."""
        batch = len(next(iter(self.sums.values()))[0][1]) if self.sums else 0
        means = torch.full((batch, self.layers, self.heads, FLAGGED + 1), float("nan"))
        for layer, known in self.sums.items():
            sums, counts = added(known)
            means[:, layer] = (sums / counts[:, None, None]).cpu()
        return means


class Totals:
    """Running sums over every pass.

    Args:
        layers: of the decoder.
        heads: per layer.
    """

    def __init__(self, layers: int, heads: int) -> None:
        self.layers, self.heads = layers, heads
        self.sums: Sums = {}
        self.conflicts: list[Tensor] = []

    def add(self, layer: int, sums: Tensor, counts: Tensor) -> None:
        """Rows of one pass: ``sums [B, H, 7]``, ``counts [B]``. Stays on the device: no pass has to wait for it."""
        known = self.sums.setdefault(layer, [])
        known.append((sums, counts))
        if len(known) == ADDED_AT_ONCE:
            known[:] = [joined(known)]

    def stats(self) -> SteeringStats:
        """Means so far."""
        means = torch.full((self.layers, self.heads, FLAGGED + 1), float("nan"), dtype=torch.float64)
        rows = torch.zeros(self.layers, dtype=torch.long)
        for layer, known in self.sums.items():
            sums, counts = joined(known)
            rows[layer] = int(counts)
            means[layer] = sums[0].cpu().double() / rows[layer]
        conflict = torch.cat([c.cpu() for c in self.conflicts]) if self.conflicts else torch.zeros(0)
        return SteeringStats(means[..., BEFORE], means[..., AFTER], means[..., FLAGGED], rows, conflict)


def added(known: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One entry for several about the same sequences."""
    sums, counts = zip(*known, strict=True)
    return torch.stack(sums).sum(0), torch.stack(counts).sum(0)


def joined(known: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One entry, as if about one sequence, for several about any: ``[1, H, 7]`` and ``[1]``."""
    sums, counts = zip(*known, strict=True)
    return torch.cat(sums).sum(0, keepdim=True), torch.cat(counts).sum(0, keepdim=True)


def row_sums(before: Tensor, after: Tensor, touched: Tensor, valid: Tensor) -> Tensor:
    """Sums over a sample's steered rows.

    Args:
        before: ``[B, H, T, 3]``.
        after: ``[B, H, T, 3]``.
        touched: bool ``[B, H, T]``.
        valid: bool ``[B, T]``.

    Returns:
        float32 ``[B, H, 7]``.
    """
    return (torch.cat([before, after, touched[..., None]], dim=-1) * valid[:, None, :, None]).sum(2)
