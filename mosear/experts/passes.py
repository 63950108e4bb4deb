"""What belongs to one forward pass: token masks, gate weights, router loads.

Nothing here is shared between passes. Tensors of a pass travel through the arguments of the decoder layers, so a
checkpointed layer that runs again in backward sees those of its own pass, whatever ran in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mosear.roles import TokenRole

GROUPS = ("visual", "non_visual", "omni")
OWNER = "mose"
"""Under which a KV cache carries our rows."""


@dataclass
class ForwardPass:
    """One pass of the language model.

    Attributes:
        masks: ``mu [B, L, 3]`` of the tokens that run now; all zero on padding.
        pooling: ``[B, 2, L]``, weights of the gate's two means; ``None`` when a cached prompt has been read before.
        adapter: whose gate weights these are.
        prompt_length: tokens of a prompt pass.
        weights: ``w [B, 3]`` by decoder layer.
        loads: ``[B, 3, K]`` mean router shares over a sample's real tokens, by projection.
    """

    masks: Tensor
    pooling: Tensor | None
    adapter: str
    prompt_length: int = 0
    weights: dict[int, Tensor] = field(default_factory=dict)
    loads: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def over_prompt(cls, roles: Tensor, prompt_mask: Tensor, adapter: str) -> ForwardPass:
        """A pass that reads a whole prompt: the gate's means come from it.

        Args:
            roles: ``[B, L]``; hidden tokens count as padding.
            prompt_mask: ``[B, L]`` bool.
            adapter: the active adapter.
        """
        visual, real = roles == int(TokenRole.VISUAL), roles != int(TokenRole.PAD)
        pools = torch.stack([visual, real & ~visual], dim=1) & prompt_mask.bool()[:, None]
        pooling = pools.float() / pools.sum(-1, keepdim=True).clamp(min=1)
        masks = torch.stack([visual, real & ~visual, real], dim=-1).float()
        return cls(masks, pooling, adapter, prompt_length=roles.shape[1])

    @classmethod
    def after_prompt(cls, weights: dict[int, Tensor], batch: int, length: int, adapter: str) -> ForwardPass:
        """A pass over answer tokens, which are text, with the gate weights of the prompt in the cache."""
        some = next(iter(weights.values()))
        masks = torch.tensor([0.0, 1.0, 1.0], device=some.device).expand(batch, length, -1)
        return cls(masks, None, adapter, weights=weights)

    def enter(self, index: int, gate: Any, hidden: Tensor) -> LayerPass | None:
        """What decoder layer ``index`` needs, from its input ``[B, L, D]``; ``None`` if it lacks this adapter."""
        if self.pooling is not None:
            self.weights[index] = gate(hidden, self.pooling)
        settings = gate.settings.get(self.adapter)
        if settings is None:
            return None
        return self.layer(self.weights[index].to(hidden.device), settings.r, settings.scaling)

    def layer(self, weights: Tensor, r: int, scaling: float) -> LayerPass:
        """The factors of a decoder layer's low-rank states, once for all its projections.

        Args:
            weights: ``w [B, 3]`` of that layer.
            r: rank of a group.
            scaling: ``alpha / r``.
        """
        kind = weights.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weights.dtype
        factors = (scaling * len(GROUPS) * weights).to(dtype)[:, None, :, None].expand(-1, -1, -1, r)
        return LayerPass(self.masks.to(weights.device, dtype)[..., None] * factors, weights, self)


@dataclass
class LayerPass:
    """A pass as one decoder layer sees it.

    Attributes:
        scale: ``(alpha / r) 3 w_m mu_m(t)``, ``[B, L, 3, r]``. Spread over the rank here: a projection then multiplies
            without broadcasting, and the sum over the rank in backward runs once instead of once per projection.
        weights: ``w [B, 3]``.
        whole: the pass.
    """

    scale: Tensor
    weights: Tensor
    whole: ForwardPass

    def note_load(self, projection: int, shares: Tensor) -> None:
        """Keep the mean of the router's ``shares [B, L, 3, K]`` over real tokens."""
        if self.whole.pooling is None:
            return
        real = self.whole.masks[..., -1].to(shares)
        shares = shares.reshape(*real.shape, *shares.shape[-2:])
        total = torch.einsum("bl,blmk->bmk", real, shares)
        load = total / real.sum(1).clamp(min=1)[:, None, None]
        # Computed again when a checkpointed layer runs again in backward (it must save the same tensors), kept once.
        self.whole.loads.setdefault(projection, load)
