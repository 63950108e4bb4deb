"""The adapted projection: three groups of low-rank experts as two matrix products.

Shape legend: B batch, L tokens, in / out features of the projection, r rank of a group, K experts of a group, 3 the
groups (visual, non-visual, omni).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F

from mosear.experts.config import MoSEConfig
from mosear.experts.passes import GROUPS, LayerPass


@dataclass
class LayerSlot:
    """Where the projections of one decoder layer find what belongs to the pass that is running through it."""

    current: LayerPass | None = None


@dataclass(frozen=True)
class LowRank:
    """Constant settings of one adapter in one projection."""

    r: int
    scaling: float
    experts: int
    shared: bool
    dropout: float

    @classmethod
    def of(cls, config: MoSEConfig) -> LowRank:
        """As a config says."""
        shared = config.share_a == "all"
        return cls(config.r, config.alpha / config.r, config.experts_per_group, shared, config.dropout)


class MoSELayer(BaseTunerLayer):
    """What PEFT finds and switches: projections and gates."""

    def active_name(self) -> str | None:
        """The adapter to apply, or ``None`` for the bare backbone."""
        if self.disable_adapters or not self.active_adapters:
            return None
        return self.active_adapters[0]

    def forget(self, adapter_name: str) -> None:
        """Drop everything that belongs to an adapter; which one is active does not change."""
        for attribute in (*self.adapter_layer_names, *self.other_param_names):
            if adapter_name in (held := getattr(self, attribute)):
                del held[adapter_name]

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Never possible."""
        raise ValueError(MERGE)

    def unmerge(self) -> None:
        """Nothing is ever merged."""


MERGE = (
    "A MoSE adapter cannot be merged: its update depends on the sample (the gate) and on the token (the masks), so no "
    "single weight equals it. Keep the adapter beside the backbone (save_pretrained / from_pretrained), or call "
    "unload() to get the bare backbone back."
)


class MoSELinear(nn.Module, MoSELayer):
    """A frozen linear layer with visual, non-visual and omni experts.

        y_t = W x_t + (alpha / r) * sum_m 3 w_m mu_m(t) * sum_k g_mk(t) B_mk A_m x_t
        g_m(t) = softmax(R_m x_t)                                            (K > 1; with K = 1, g = 1)

    ``w`` (per sample) and ``mu`` (per token) come from the running pass through ``slot``. All experts are rows and
    columns of one ``A [3r, in]`` and one ``B [out, 3Kr]``: gate, mask and router scale the 3r numbers between the two
    products, so nothing of size ``[B, L, 3K, out]`` ever exists and every parameter is in every graph.

    Args:
        base_layer: ``nn.Linear``, or bitsandbytes' 4-bit layer, which is one.
        slot: shared by the projections of a decoder layer.
        adapter_name: the first adapter.
        config: its settings.
    """

    adapter_layer_names = ("mose_A", "mose_B", "mose_R")
    other_param_names = ("settings",)

    def __init__(self, base_layer: nn.Linear, slot: LayerSlot, adapter_name: str, config: MoSEConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.slot = slot
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.mose_A, self.mose_B, self.mose_R = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self.settings: dict[str, LowRank] = {}
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: MoSEConfig) -> None:
        """Add an adapter; ``B`` is zero, so the layer's output does not change."""
        groups, experts = len(GROUPS), config.experts_per_group
        settings = self.settings[adapter_name] = LowRank.of(config)
        self.mose_A[adapter_name] = _kaiming((1 if settings.shared else groups) * config.r, self.in_features)
        self.mose_B[adapter_name] = nn.Parameter(torch.zeros(self.out_features, groups * experts * config.r))
        if experts > 1:
            # Not zero: experts that start with equal shares get equal gradients and would stay equal for ever.
            self.mose_R[adapter_name] = _kaiming(groups * experts, self.in_features)
        layer: Any = self  # PEFT's mixin is untyped
        layer._move_adapter_to_device_of_base_layer(adapter_name)
        layer.set_adapter(layer.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[B, L, in] -> [B, L, out]``."""
        result = self.base_layer(x, *args, **kwargs)
        name = self.active_name()
        if name is None or name not in self.settings:
            return result
        if self.slot.current is None:
            raise ValueError(
                "A MoSE projection ran outside a pass of the language model: no roles, no gate weights. Call "
                "the model, its language model or OmniBackbone.hidden_states; or use disable_adapter()."
            )
        # In place on our own tensor, never on the base layer's, which may be a view or be held by a hook.
        return self.update(x, name, self.slot.current).to(result.dtype).add_(result)

    def update(self, x: Tensor, name: str, current: LayerPass) -> Tensor:
        """What the experts add: ``[B, L, out]``, a fresh tensor."""
        settings, a, b = self.settings[name], self.mose_A[name], self.mose_B[name]
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(a.dtype)
        hidden = F.linear(F.dropout(x, settings.dropout, self.training), a)
        scale = current.scale.to(hidden).reshape(*x.shape[:-1], len(GROUPS), 1, settings.r)
        if settings.experts > 1:
            shares = F.linear(x, self.mose_R[name]).unflatten(-1, (len(GROUPS), -1)).float().softmax(-1)
            current.note_load(id(self), shares)
            scale = scale * shares.to(hidden)[..., None]
        # Cast here: autocast does not reach into a Function's backward.
        update: Tensor = ScaledProduct.apply(hidden.unflatten(-1, (-1, 1, settings.r)), scale, b.to(hidden.dtype))
        return update

    def __repr__(self) -> str:
        return "mose." + super().__repr__()


class ScaledProduct(torch.autograd.Function):
    """``y = (h * s) B^T``, keeping ``h`` and ``s`` for backward and not their product.

    ``s`` is shared by the projections of a decoder layer, so a projection keeps as much as plain LoRA does.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, scale: Tensor, b: Tensor) -> Tensor:
        """``h [..., 3 or 1, 1, r]``, ``s [..., 3, K, r]``, ``B [out, 3Kr]`` to ``[..., out]``."""
        ctx.save_for_backward(hidden, scale, b)
        return F.linear((hidden * scale).flatten(-3), b)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``h``, ``s`` and ``B``."""
        hidden, scale, b = ctx.saved_tensors
        of_ranks = (gradient @ b).view_as(scale)
        of_b = gradient.flatten(0, -2).t() @ (hidden * scale).flatten(-3).flatten(0, -2)
        return (of_ranks * scale).sum_to_size(hidden.shape), of_ranks * hidden, of_b


def _kaiming(rows: int, columns: int) -> nn.Parameter:
    """As LoRA's ``A``: the bound depends on the columns alone, so stacked blocks start as separate ones would."""
    return nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rows, columns), a=math.sqrt(5)))
