"""AR: attention reallocation from audio to video, per sample and head (MoSEAR, Han et al. 2025, arXiv:2508.01181)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Interval, MinLen
from torch import Tensor

from mosear.settings import settings
from mosear.steering.policies.base import AttentionView, Edit, Policy, outside


@settings
@dataclass(frozen=True)
class AttentionReallocation(Policy):
    """Takes attention from the voice and gives it to the face, in heads that listen too much.

    With ``a`` and ``v`` the audio and visual mass of a row, a head is flagged in this row if ::

        a / (a + v) > threshold                                     (criterion mass)
        (a/|A|) / (a/|A| + v/|V|) > threshold                       (criterion density; |A|, |V| token counts)

    and then, with ``rho`` the portion, ::

        p'_j = (1 - rho) p_j                 audio
        p'_k = p_k (1 + rho a / v)           visual, proportional
        p'_k = p_k + rho a / |V|             visual, uniform
        p'_l = p_l                           everything else: a row's sum does not change.

    A sample without audio or without video is untouched, and so is a row that gives no attention to one of them.

    Our reading: the paper's public text gives no formula; every choice is a setting.

    Attributes:
        threshold: in [0, 1).
        portion: rho, in [0, 1]; 0 changes nothing.
        criterion: see above. There are far fewer audio than visual tokens in some backbones and more in others, so the
            two criteria differ.
        distribution: see above.
        layers: decoder layers to act in; ``None`` means all.
        phase: act on the prompt's tail (``prefill``), on answer tokens (``decode``) or on ``both``.
    """

    key: ClassVar[str] = "ar"
    needs_both: ClassVar[bool] = True

    threshold: Annotated[float, Interval(ge=0, lt=1)] = 0.6
    portion: Annotated[float, Interval(ge=0, le=1)] = 0.5
    criterion: Literal["mass", "density"] = "mass"
    distribution: Literal["proportional", "uniform"] = "proportional"
    layers: Annotated[Sequence[int], MinLen(1), "null means all"] | None = None
    phase: Literal["prefill", "decode", "both"] = "both"

    def problems(self, layers: int, heads: int) -> list[str]:
        """Layers that the decoder does not have."""
        return outside("AttentionReallocation.layers", tuple(self.layers or ()), layers, "layer")

    def acts_in(self, layer: int) -> bool:
        """Among ``layers``."""
        return self.layers is None or layer in self.layers

    def idle(self, state: Tensor | None) -> bool:
        """With nothing to move."""
        return self.portion == 0

    def apply(self, probabilities: Tensor, view: AttentionView) -> Edit:
        """See the class."""
        flagged = self.flagged(view)
        audio, visual, _ = view.mass.unbind(-1)
        moved = torch.where(flagged, self.portion * audio, 0.0)
        left = torch.where(flagged, 1 - self.portion, 1.0)
        untouched = torch.ones_like(audio)
        if self.distribution == "proportional":
            gained = 1 + moved / torch.where(flagged, visual, 1.0)
            return view.scaled(probabilities, torch.stack([left, gained, untouched], dim=-1)), flagged
        share = moved / view.keys.masks[..., 1].sum(1).clamp(min=1)[:, None, None]
        added = view.spread(torch.stack([torch.zeros_like(share), share, torch.zeros_like(share)], dim=-1))
        return view.scaled(probabilities, torch.stack([left, untouched, untouched], dim=-1)) + added, flagged

    def flagged(self, view: AttentionView) -> Tensor:
        """bool ``[B, H, T]``: which heads listen too much, row by row."""
        audio, visual, _ = view.mass.unbind(-1)
        # Below the smallest normal number a / v overflows: such a row gives the face nothing to multiply. A row without
        # audio is below any threshold.
        seen = visual > torch.finfo(visual.dtype).tiny
        if self.criterion == "density":
            counts = view.keys.masks.sum(1).clamp(min=1)[:, None, None]
            audio, visual = audio / counts[..., 0], visual / counts[..., 1]
        flagged = seen & (audio > self.threshold * (audio + visual))
        if self.phase != "both":
            rows = view.answer if self.phase == "decode" else ~view.answer
            flagged = flagged & rows[:, None]
        return flagged
