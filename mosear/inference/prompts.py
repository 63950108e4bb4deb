"""Prompts as the language model reads them: embedded, with roles. Every way of answering starts from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mosear.roles import TokenRole

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch


@dataclass(frozen=True)
class Prompts:
    """Whole prompts, on either side of which there may be padding; answers may follow them.

    Attributes:
        embeds: ``[B, L, D]``.
        positions: ``[3, B, L]``.
        roles: ``[B, L]`` :class:`TokenRole`; hidden tokens count as padding.
        prompt: bool ``[B, L]``.
        transcript: bool ``[B, L]``; ``None`` = its place is unknown.
        extra: other arguments of the language model.
    """

    embeds: Tensor
    positions: Tensor
    roles: Tensor
    prompt: Tensor
    transcript: Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, backbone: OmniBackbone, batch: OmniBatch) -> Prompts:
        """The prompts of a batch; media raw or encoded."""
        embeds, extra = backbone.embed(batch.input_ids, batch.media)
        return cls(embeds, batch.position_ids, batch.roles, batch.prompt_mask, batch.transcript, extra)

    def __len__(self) -> int:
        return len(self.roles)

    @property
    def real(self) -> Tensor:
        """bool ``[B, L]``: visible tokens of the prompt."""
        return self.prompt & (self.roles != int(TokenRole.PAD))

    @property
    def last(self) -> Tensor:
        """``[B]``, where the prompt's last token is: the one that the answer follows."""
        return (self.real * torch.arange(1, self.real.shape[1] + 1, device=self.real.device)).argmax(1)

    def tokens_of(self, modality: str) -> Tensor:
        """bool ``[B, L]``: visible prompt tokens that carry ``audio``, ``visual`` or ``text`` (the transcript)."""
        if modality == "text":
            return torch.zeros_like(self.real) if self.transcript is None else self.real & self.transcript
        return self.real & (self.roles == int(TokenRole[modality.upper()]))

    def present(self, modality: str) -> Tensor:
        """bool ``[B]``: does the clip carry it?"""
        return self.tokens_of(modality).any(1)

    def carry_both(self) -> bool:
        """Has any clip a face and a voice? (Waits for the device.)"""
        return bool((self.present("audio") & self.present("visual")).any())

    def without_answers(self) -> Prompts:
        """Cut behind the longest prompt. (Waits for the device.)"""
        width = int(self.last.max()) + 1
        if width == self.roles.shape[1]:
            return self
        return replace(
            self,
            embeds=self.embeds[:, :width],
            positions=self.positions[..., :width],
            roles=self.roles[:, :width],
            prompt=self.prompt[:, :width],
            transcript=None if self.transcript is None else self.transcript[:, :width],
            extra={name: value[:, :width] if self._per_token(value) else value for name, value in self.extra.items()},
        )

    def without(self, hide: Sequence[str]) -> Prompts:
        """The visible tokens alone, at the positions that they have in the whole prompt. (Waits for the device.)

        As hiding by masks, for a pass as long as what is left. Prompts with ``extra`` arguments stay as they are.
        """
        if self.extra:
            return self
        kept = self.real & ~self.hidden(hide)
        width = max(1, int(kept.sum(1).max()))
        order = kept.byte().argsort(dim=1, stable=True)[:, -width:]  # the kept ones last, in their order
        kept = kept.gather(1, order)
        return Prompts(
            embeds=self.embeds.gather(1, order[..., None].expand(-1, -1, self.embeds.shape[-1])),
            positions=self.positions.gather(-1, order.expand(len(self.positions), -1, -1)),
            roles=self.roles.gather(1, order).masked_fill(~kept, int(TokenRole.PAD)),
            prompt=kept,
            transcript=None if self.transcript is None else self.transcript.gather(1, order) & kept,
        )

    def hidden(self, hide: Sequence[str]) -> Tensor:
        """bool ``[B, L]``: visible tokens that carry one of these modalities."""
        return torch.stack([self.tokens_of(modality) for modality in hide]).any(0)

    def extra_for(self, following: int) -> dict[str, Any]:
        """``extra`` for a pass in which so many tokens follow: what is per token gets zeros for them."""
        return {
            name: torch.cat([value, value.new_zeros(len(value), following, *value.shape[2:])], dim=1)
            if self._per_token(value)
            else value
            for name, value in self.extra.items()
        }

    def _per_token(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.shape[:2] == self.roles.shape
