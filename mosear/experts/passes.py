"""What belongs to one forward pass: token masks, gate weights, router loads. And to a KV cache: the gate weights.

Nothing here is shared between passes. Tensors of a pass travel through the arguments of the decoder layers, so a
checkpointed layer that runs again in backward sees those of its own pass, whatever ran in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mosear.roles import TokenRole

GROUPS = ("visual", "non_visual", "omni")


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

    def enter(self, index: int, gate: Any, hidden: Tensor) -> LayerPass:
        """What decoder layer ``index`` needs, from its input ``[B, L, D]``."""
        if self.pooling is not None:
            self.weights[index] = gate(hidden, self.pooling)
        weights = self.weights[index].to(hidden.device)
        return LayerPass(len(GROUPS) * weights[:, None] * self.masks.to(hidden.device), self)


@dataclass
class LayerPass:
    """A pass as one decoder layer sees it: ``scale [B, L, 3] = 3 w_m mu_m(t)``."""

    scale: Tensor
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


class GatedCache:
    """Mixed into the class of a KV cache when a prompt pass has filled it: its gate weights go where its keys go.

    Attributes:
        gate_weights: ``w [B, 3]`` by decoder layer; empty when the prompt is no longer whole.
        gate_adapter: whose weights these are.
        gate_prompt_length: tokens of the prompt, padding included.
    """

    gate_weights: dict[int, Tensor]
    gate_adapter: str
    gate_prompt_length: int

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._pick(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Some rows go on."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._pick(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each prompt is shared by several continuations."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self.gate_weights = {index: w.repeat_interleave(repeats, dim=0) for index, w in self.gate_weights.items()}

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Dropping answer tokens is fine; with part of the prompt gone, its gate weights mean nothing."""
        super().crop(*args, **kwargs)  # type: ignore[misc]
        if int(self.get_seq_length()) < self.gate_prompt_length:  # type: ignore[attr-defined]
            self.gate_weights = {}

    def reset(self) -> None:
        """The cache is empty again."""
        super().reset()  # type: ignore[misc]
        self.gate_weights = {}

    def _pick(self, rows: Tensor) -> None:
        self.gate_weights = {index: w[rows.to(w.device)] for index, w in self.gate_weights.items()}


@cache
def _gated(cache_class: type) -> type:
    return type(f"Gated{cache_class.__name__}", (GatedCache, cache_class), {})


def bind(key_values: Any, prompt_pass: ForwardPass) -> None:
    """Let a cache carry the gate weights of the pass that filled it.

    The cache's class gets a subclass of itself instead of an entry in some table: copies, and whatever reorders or
    expands the cache, then need to know nothing about gates.
    """
    if not isinstance(key_values, GatedCache):
        key_values.__class__ = _gated(type(key_values))  # type: ignore[arg-type]
    key_values.gate_weights, key_values.gate_adapter = dict(prompt_pass.weights), prompt_pass.adapter
    key_values.gate_prompt_length = prompt_pass.prompt_length
