"""PEFT's LoRA layers with less to compute, for plain LoRA on plain linear layers."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


class LeanLoraLinear(Linear):
    """The layer as PEFT has it, which scales where a token has r numbers and not ``out`` of them.

        PEFT:  y = W x + s (B (A x))        ours:  y = B (s (A x)) + W x, added in place

    Forward and backward each save passes over ``[tokens, out]``. The same to the last bit where s is a power of two
    (``lora_alpha = 2 r``, the default here), up to rounding elsewhere; weights, names and files are PEFT's own.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[..., in] -> [..., out]``; everything that is not one plain adapter is done by PEFT."""
        name = None if args or kwargs else self._one_plain_adapter()
        if name is None:
            whole: Tensor = super().forward(x, *args, **kwargs)
            return whole
        result: Tensor = self.base_layer(x)
        a, b = self.lora_A[name], self.lora_B[name]
        hidden = a(self.lora_dropout[name](self._cast_input_dtype(x, a.weight.dtype)))
        update: Tensor = b(hidden * self.scaling[name])
        if update.dtype != torch.result_type(update, result):
            return (result + update).to(result.dtype)
        # In place on our own tensor, never on the base layer's, which may be a view or be held by a hook.
        return update.add_(result).to(result.dtype)

    def _one_plain_adapter(self) -> str | None:
        own = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(own) != 1 or own[0] in self.lora_variant:
            return None
        return None if self.lora_bias[own[0]] else own[0]  # a bias of B would be scaled as well


def lean(model: nn.Module) -> nn.Module:
    """Turn PEFT's plain LoRA layers of a model into :class:`LeanLoraLinear`; returns the model."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = LeanLoraLinear
    return model
