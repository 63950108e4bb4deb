"""PEFT's LoRA layers with less to compute, for plain LoRA on plain linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional


class LeanLoraLinear(Linear):
    """The layer as PEFT has it, which scales where a token has r numbers and not ``out`` of them.

        PEFT:  y = W x + s (B (A x))        ours:  y = B (s (A x)) + W x, added in place

    Forward and backward each save passes over ``[tokens, out]``. The same to the last bit where s is a power of two
    (``lora_alpha = 2 r``, the default here), up to rounding elsewhere; weights, names and files are PEFT's own.
    """

    folded: Tensor | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[..., in] -> [..., out]``; everything that is not one plain adapter is done by PEFT."""
        name = None if args or kwargs else self._one_plain_adapter()
        if name is None:
            whole: Tensor = super().forward(x, *args, **kwargs)
            return whole
        if self.folded is not None:
            return functional.linear(x, self.folded, self.base_layer.bias)
        result: Tensor = self.base_layer(x)
        a, b = self.lora_A[name], self.lora_B[name]
        hidden = a(self.lora_dropout[name](self._cast_input_dtype(x, a.weight.dtype)))
        update: Tensor = b(hidden * self.scaling[name])
        if update.dtype != torch.result_type(update, result):
            return (result + update).to(result.dtype)
        # In place on our own tensor, never on the base layer's, which may be a view or be held by a hook.
        return update.add_(result).to(result.dtype)

    def fold(self) -> None:
        """Compute ``W + s B A`` once for many passes without gradients; ``W`` stays as it is."""
        name = self._one_plain_adapter()
        weights = [] if name is None else [self.base_layer.weight, self.lora_A[name].weight, self.lora_B[name].weight]
        if weights and {(type(w.data), w.dtype) for w in weights} == {(Tensor, torch.float32)}:
            self.folded = torch.addmm(weights[0], weights[2], weights[1], alpha=self.scaling[name])

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


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """Plain LoRA layers in float32 cost one product inside this context. Their weights must not change meanwhile.

    Others are left alone: in a lower precision ``W + s B A`` rounds, and what is sampled would not be what trains.
    """
    layers = [module for module in model.modules() if isinstance(module, LeanLoraLinear)]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.fold()
        yield
    finally:
        for layer in layers:
            layer.folded = None
