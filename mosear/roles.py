"""Modalities, and which token carries which: the vocabulary that experts, steering, data and telemetry share.

A role map is a ``LongTensor [B, L]`` of :class:`TokenRole` values, parallel to ``input_ids``. It depends on token ids
and on the attention mask alone, never on where a medium sits in the prompt, so left and right padding, several media
per clip, missing modalities and audio interleaved with video need no special case.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Modality(StrEnum):
    """What a clip may carry. Every tuple of modalities elsewhere is made of these members, in this order."""

    VIDEO = "video"
    AUDIO = "audio"
    TEXT = "text"

    @property
    def shown(self) -> str:
        """How manifests, predictions and settings spell what a modality shows: ``visual`` for the picture."""
        return "visual" if self is Modality.VIDEO else self.value


MODALITIES = tuple(modality.value for modality in Modality)
"""As fields of a clip are called: video, audio, text."""
SHOWN = tuple(modality.shown for modality in Modality)
"""As what they show is called in unimodal predictions and their columns: visual, audio, text."""


class TokenRole(IntEnum):
    """The modality a token carries. Boundary tokens (begin / end of a medium) are text: they hold no media features."""

    TEXT = 0
    AUDIO = 1
    VISUAL = 2
    PAD = 3


def token_roles(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    audio_ids: tuple[int, ...],
    visual_ids: tuple[int, ...],
) -> torch.Tensor:
    """Map token ids to roles.

    Args:
        input_ids: ``[B, L]`` (any leading shape works).
        attention_mask: same shape, 0 on padding; ``None`` means no padding.
        audio_ids: placeholder ids that audio features replace.
        visual_ids: placeholder ids that image or video features replace.

    Returns:
        ``LongTensor`` of the shape of ``input_ids`` with :class:`TokenRole` values.
    """
    import torch

    roles = torch.full_like(input_ids, int(TokenRole.TEXT), dtype=torch.long)
    for ids, role in ((audio_ids, TokenRole.AUDIO), (visual_ids, TokenRole.VISUAL)):
        for token_id in ids:
            roles[input_ids == token_id] = int(role)
    if attention_mask is not None:
        roles[attention_mask == 0] = int(TokenRole.PAD)
    return roles
