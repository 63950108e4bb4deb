"""How a policy decides, clip by clip, what to do: what a session must read for it, and what it makes of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mosear.steering.policies.base import Policy
    from mosear.steering.policies.reliability import Readings

NO_TARGET = -1


@dataclass(frozen=True)
class Decision:
    """What a policy concludes about a batch.

    Attributes:
        conflict: float32 ``[B]`` in [0, 1]; NaN where a modality is absent.
        scores: float32 ``[B, 2]`` reliability of audio and video; NaN where absent.
        target: int64 ``[B]`` the :class:`TokenRole` to steer to, -1 where nothing is steered.
        bonus: float32 ``[B, 2]``, the state that the policy edits by, 0 where nothing is steered. In CHASE, what is
            added to the attention logits of audio and of visual tokens.
    """

    conflict: Tensor
    scores: Tensor
    target: Tensor
    bonus: Tensor

    @classmethod
    def none(cls, batch: int, device: torch.device) -> Decision:
        """About clips of which none has both modalities."""
        unknown = torch.full((batch,), float("nan"), device=device)
        target = torch.full((batch,), NO_TARGET, device=device)
        return cls(unknown, unknown[:, None].expand(-1, 2), target, torch.zeros(batch, 2, device=device))


@dataclass(frozen=True)
class Detection:
    """What a policy that decides needs of a session.

    Attributes:
        decide: from readings ``[B, C]`` by modality, as the model gives them, and the true directions (int64 ``[B]``
            :class:`TokenRole`, -1 where there is none; ``None`` if the session does not know them) to a decision.
        silent: a policy with the same evidence that edits nothing.
        modalities: readings that it needs, of ``audio``, ``visual`` and ``text``; each may cost a pass.
        detector: where readings come from: extra passes that hide the other modalities (``masked``), or the attention
            of the pass itself (``heads``).
        readings: what the masked detector shows beside a modality: nothing (``alone``), or the transcript.
        directions: the true directions are needed.
        evidence: for ``heads``, from layers and heads of a decoder to the (layer, head) pairs that are read.
    """

    decide: Callable[[Readings, Tensor | None], Decision]
    silent: Policy
    modalities: tuple[str, ...] = ("audio", "visual")
    detector: Literal["masked", "heads"] = "masked"
    readings: Literal["alone", "with_transcript"] = "alone"
    directions: bool = False
    evidence: Callable[[int, int], tuple[tuple[int, int], ...]] = lambda layers, heads: ()
