"""The attention function of a steered language model.

One function, registered with transformers under one name together with its mask function (without that, padding would
be lost). The fast kernel computes every row; steered rows, a few dozen, are then computed exactly, edited by the policy
and written over: O(T K) beside the kernel's O(Q K). What a pass must know travels through the call's keyword arguments
(``steering=``), from the language model down to here, so nothing is shared between passes. Without it the function is
the fast kernel.

Shape legend: see :mod:`mosear.steering.rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask, sdpa_mask

from mosear.steering.passes import SteeredPass, full_precision

if TYPE_CHECKING:
    from mosear.steering.rows import SteeredRows

NAME = "mosear_steered"
"""What transformers calls the function. No kernel's name may be part of it: transformers looks for these."""

ROWS_AT_ONCE = 128
"""Bounds the memory of a very long prompt tail."""

CPU_BYTES_AT_ONCE = 2**22
"""Of probabilities on a CPU. Every step of an edit reads and writes them, so they had better stay in its cache."""

_kernels: dict[int, str] = {}
"""Fast kernel by the id of the text config that is installed: a mask function gets to see nothing but the config."""


@contextmanager
def kernel_for(config: Any, implementation: str) -> Iterator[None]:
    """Which fast kernel runs under our name for models with this very config.

    Args:
        config: the language model's.
        implementation: what the model ran with before: ``sdpa``, a flash kernel, or ``eager`` (SDPA stands in for it).

    Raises:
        ValueError: for anything else.
    """
    if implementation not in ("eager", "sdpa") and "flash" not in implementation:
        raise ValueError(
            f"Steering runs on sdpa or flash attention, not on attn_implementation={implementation!r}. Load the "
            "backbone with attn_implementation='sdpa'."
        )
    _kernels[id(config)] = "sdpa" if implementation == "eager" else implementation
    try:
        yield
    finally:
        del _kernels[id(config)]


def steered_mask(*args: Any, config: Any = None, **kwargs: Any) -> Tensor | None:
    """The fast kernel's own mask."""
    make = sdpa_mask if _kernels.get(id(config), "sdpa") == "sdpa" else flash_attention_mask
    return make(*args, config=config, **kwargs)


def steered_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    steering: SteeredPass | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: the attention layer; its ``layer_idx`` tells policies where they are.
        query: ``[B, H, Q, D]``, rotated.
        key: ``[B, KV, K, D]``, those of a cache included.
        value: ``[B, KV, K, D]``.
        attention_mask: ``None`` (causal), bool or additive ``[B, 1 or H, Q, K]``, or ``[B, K]`` under a flash kernel.
        steering: the running pass; ``None`` = the fast kernel alone.
        kwargs: ``scaling``, ``sliding_window`` and what else kernels take.

    Returns:
        ``[B, Q, H, D]`` and no attention weights.
    """
    if steering is None:
        return fast_attention(module, query, key, value, attention_mask, **kwargs), None
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    exact = ExactRows(
        query,
        key,
        value,
        attention_mask,
        scaling=kwargs.get("scaling"),
        causal_offset=0 if _kernel(module) == "sdpa" and query.shape[2] > 1 else key.shape[2] - query.shape[2],
        window=kwargs.get("sliding_window"),
    )
    if steering.reads_in(layer):
        steering.read(layer, module, exact)
    if not steering.acts_in(layer):
        return fast_attention(module, query, key, value, attention_mask, **kwargs), None
    rows = steering.rows_on(query.device)
    if rows.everything:
        return steered_values(steering, layer, exact, rows)[0], None
    output = fast_attention(module, query, key, value, attention_mask, **kwargs)
    values, touched = steered_values(steering, layer, exact, rows)
    where = (torch.arange(len(query), device=query.device)[:, None], rows.index)
    changed = (touched & rows.valid[:, None]).transpose(1, 2)[..., None]
    merged = torch.where(changed, values.to(output.dtype), output[where])
    # Autograd keeps a kernel's output for its backward pass: then it must stay as it is.
    return (output.index_put if output.requires_grad else output.index_put_)(where, merged), None


def fast_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Tensor:
    """``[B, Q, H, D]`` from the kernel that the model ran with before. Flash cannot take a mask of queries by keys."""
    kernel = _kernel(module)
    if kernel == "sdpa" or (attention_mask is not None and attention_mask.ndim == 4):
        output: Tensor = _functions["sdpa"](module, query, key, value, attention_mask, **kwargs)[0]
        return output
    config: Any = module.config
    # transformers' flash functions look up the kernel's name in the config, where ours stands.
    config._attn_implementation_internal = kernel
    try:
        output = _functions[kernel](module, query, key, value, attention_mask, **kwargs)[0]
    finally:
        config._attn_implementation_internal = NAME
    return output


def _kernel(module: nn.Module) -> str:
    return _kernels.get(id(module.config), "sdpa")


def steered_values(steering: SteeredPass, layer: int, exact: ExactRows, rows: SteeredRows) -> tuple[Tensor, Tensor]:
    """Outputs of the steered rows, ``[B, T, H, D]``, and bool ``[B, H, T]`` where they are the policy's doing."""
    found = []
    for part in steering.parts(rows, exact.rows_at_once):
        probabilities = exact.probabilities(part.places, steering.sight(exact, part))
        edited, touched = steering.edit(layer, probabilities, part)
        found.append((exact.values(edited), touched))
    if len(found) == 1:
        return found[0]
    values, touches = zip(*found, strict=True)
    return torch.cat(values, dim=1), torch.cat(touches, dim=2)


@dataclass(frozen=True)
class Sight:
    """Which keys chosen rows see.

    Attributes:
        bias: float32 ``[B, 1 or H, T, K]`` to add to the logits; ``None`` = all keys.
        sees: float32 ``[B, 1 or H, T, 1]``, 0 for a row that sees no key, else 1; ``None`` = each sees one.
    """

    bias: Tensor | None = None
    sees: Tensor | None = None


class ExactRows:
    """Chosen rows of one attention call, with probabilities in fp32.

    Query heads share keys in groups (GQA): instead of repeating keys and values, the queries of a group become rows of
    one product.

    Args:
        query: as in :func:`steered_attention`, like the following.
        key: keys.
        value: values.
        mask: mask.
        scaling: factor on the logits; ``None`` = ``D ** -0.5``.
        causal_offset: without a mask of its own, query i sees the keys up to i + offset.
        window: and no key that is so far or farther away; ``None`` = no limit.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None = None,
        causal_offset: int = 0,
        window: int | None = None,
    ) -> None:
        self.query, self.key, self.value, self.mask = query, key, value, mask
        self.causal_offset, self.window = causal_offset, window
        self.scaling = query.shape[-1] ** -0.5 if scaling is None else scaling

    @property
    def rows_at_once(self) -> int:
        """Rows per part, at least one."""
        if self.query.device.type != "cpu":
            return ROWS_AT_ONCE
        batch, heads = self.query.shape[:2]
        row_bytes = batch * heads * self.key.shape[2] * torch.float32.itemsize
        return min(ROWS_AT_ONCE, max(1, CPU_BYTES_AT_ONCE // row_bytes))

    @cached_property
    def _keys(self) -> Tensor:
        return self.key.float().transpose(-1, -2)

    def probabilities(self, index: Tensor | None, sight: Sight | None = None) -> Tensor:
        """Attention probabilities of rows ``index [B, T]``: ``[B, H, T, K]``; a row that sees no key is zero.

        Args:
            index: ``None`` = all rows.
            sight: :meth:`sight` of these rows, if it is known.
        """
        batch, heads, _, size = self.query.shape
        groups, keys = self.key.shape[1:3]
        sight = self.sight(index) if sight is None else sight
        with full_precision(self.query.device):
            rows = self.query
            if index is not None:
                rows = rows.gather(2, index[:, None, :, None].expand(-1, heads, -1, size))
            scores = (rows.float() * self.scaling).reshape(batch, groups, -1, size) @ self._keys
            scores = scores.view(batch, heads, -1, keys)
            if sight.bias is not None:
                scores += sight.bias
            probabilities = scores.softmax(-1)
            if sight.sees is None:
                return probabilities
            return probabilities * sight.sees if probabilities.requires_grad else probabilities.mul_(sight.sees)

    def values(self, probabilities: Tensor) -> Tensor:
        """``[B, T, H, D]`` from ``[B, H, T, K]``, in the type of the values: fast kernels round here as well."""
        batch, heads, rows, keys = probabilities.shape
        with full_precision(self.query.device):
            grouped = probabilities.to(self.value.dtype).reshape(batch, self.value.shape[1], -1, keys)
            return (grouped @ self.value).view(batch, heads, rows, -1).transpose(1, 2)

    def sight(self, index: Tensor | None) -> Sight:
        """What rows ``index [B, T]`` see; ``None`` = all rows."""
        batch, keys, device = len(self.query), self.key.shape[2], self.query.device
        if self.mask is None and self.window is None and self.causal_offset >= keys - 1:
            return Sight()
        extra = None
        if self.mask is not None and self.mask.ndim == 4:
            visible = self.mask.expand(batch, -1, -1, -1)[..., :keys]
            if index is not None:
                every = torch.arange(batch, device=device)[:, None]
                visible = visible[every, :, index].transpose(1, 2)  # two index tensors around a slice: [B, T, heads, K]
            if visible.dtype != torch.bool:
                extra = visible.float()
                visible = visible > torch.finfo(visible.dtype).min / 2
        else:
            index = torch.arange(self.query.shape[2], device=device)[None] if index is None else index
            last = index[..., None] + self.causal_offset
            position = torch.arange(keys, device=device)
            visible = position <= last
            if self.window is not None:
                visible = visible & (position > last - self.window)
            if self.mask is not None:
                visible = visible & self.mask.bool()[:, None, :keys]
            visible = visible[:, None]
        if self.mask is None:  # then every row sees itself
            return Sight(bias_of(visible))
        sees = visible.any(-1, keepdim=True)
        # A row of nothing but -inf would become NaN: a blind one looks everywhere, and is then multiplied by 0.
        return Sight(bias_of(visible | ~sees, extra), sees.float())


def bias_of(visible: Tensor, extra: Tensor | None = None) -> Tensor:
    """float32: 0 (or what an additive mask has there) where ``visible``, -inf elsewhere."""
    shown = torch.zeros((), device=visible.device) if extra is None else extra
    return torch.where(visible, shown, float("-inf"))


_functions = AttentionInterface()
AttentionInterface.register(NAME, steered_attention)
AttentionMaskInterface.register(NAME, steered_mask)
