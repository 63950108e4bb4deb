"""Which rows of the attention matrix are steered, and which modality each key carries.

Shape legend of this package: B samples, H heads, KV key/value heads, Q queries of the pass, K keys, T steered rows of a
sample (padded to the longest), D size of a head, C candidate labels; 3 = the modalities, in the order of KEYS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from mosear.roles import TokenRole

KEYS = ("audio", "visual", "text")
"""The modalities in the order of stored attention statistics."""


@dataclass(frozen=True)
class SteeredRows:
    """The steered queries of one pass: those after the last media token, each sample's own.

    Attributes:
        index: ``[B, T]`` position among the pass's queries; no position occurs twice in a row.
        valid: ``[B, T]`` bool, False where a sample has fewer rows.
        answer: ``[B, T]`` bool, True on answer tokens, False on the prompt's tail.
        everything: every query of every sample is steered, in order.
    """

    index: Tensor
    valid: Tensor
    answer: Tensor
    everything: bool = False

    @classmethod
    def after_media(cls, roles: Tensor, prompt_mask: Tensor) -> SteeredRows:
        """Rows of a pass that reads whole prompts (and answers, perhaps).

        A sample without media has none, and padding never is one.

        Args:
            roles: ``[B, L]`` :class:`TokenRole`; hidden tokens count as padding.
            prompt_mask: ``[B, L]`` bool.
        """
        media = carries_media(roles)
        steered = (media.flip(1).cumsum(1).flip(1) == 0) & media.any(1, keepdim=True) & (roles != int(TokenRole.PAD))
        count = int(steered.sum(1).max())
        index = steered.long().argsort(dim=1, descending=True, stable=True)[:, :count]
        return cls(index, steered.gather(1, index), ~prompt_mask.gather(1, index))

    @classmethod
    def after_prompt(cls, prompt_roles: Tensor, length: int) -> SteeredRows:
        """Rows of a pass over ``length`` answer tokens that continues cached prompts."""
        has_media = carries_media(prompt_roles).any(1, keepdim=True)
        everything = bool(has_media.all())
        count = length if everything or bool(has_media.any()) else 0
        index = torch.arange(count, device=prompt_roles.device).expand(len(prompt_roles), -1)
        valid = has_media.expand(-1, count)
        return cls(index, valid, torch.ones_like(valid), everything)

    @property
    def count(self) -> int:
        """T."""
        return self.index.shape[1]

    @property
    def places(self) -> Tensor | None:
        """``index``, or ``None`` for every query in order: then nothing needs to be gathered."""
        return None if self.everything else self.index

    @cached_property
    def counts(self) -> Tensor:
        """``[B]``, how many rows of a sample are valid."""
        return self.valid.sum(1)

    def part(self, start: int, stop: int) -> SteeredRows:
        """Some of the rows."""
        if start == 0 and stop >= self.count:
            return self
        return SteeredRows(self.index[:, start:stop], self.valid[:, start:stop], self.answer[:, start:stop])

    def to(self, device: torch.device) -> SteeredRows:
        """On another device (layers of one model may be spread)."""
        if device == self.index.device:
            return self
        return SteeredRows(self.index.to(device), self.valid.to(device), self.answer.to(device), self.everything)


def carries_media(roles: Tensor) -> Tensor:
    """bool of the shape of ``roles``: audio or visual tokens."""
    return (roles == int(TokenRole.AUDIO)) | (roles == int(TokenRole.VISUAL))


@dataclass(frozen=True)
class Keys:
    """What each key carries: exactly one modality.

    Attributes:
        kinds: int64 ``[B, K]``, position in KEYS.
        masks: float32 ``[B, K, 3]``, the same as 0 and 1.
    """

    kinds: Tensor
    masks: Tensor

    @classmethod
    def of(cls, roles: Tensor, count: int) -> Keys:
        """Of ``count`` keys, the first of which have ``roles [B, L]``; the others are answer tokens.

        What is neither audio nor visual counts as text: padding, too, which gets no attention.
        """
        text = KEYS.index("text")
        kinds = torch.full_like(roles, text)
        for role in (TokenRole.AUDIO, TokenRole.VISUAL):
            kinds[roles == int(role)] = KEYS.index(role.name.lower())
        kinds = F.pad(kinds, (0, count - roles.shape[1]), value=text)
        return cls(kinds, F.one_hot(kinds, len(KEYS)).float())
