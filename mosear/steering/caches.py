"""KV caches in which a steered pass could not tell which key is whose."""

from __future__ import annotations

from typing import Any

STATIC_FLASH = (
    "Steering cannot use a static KV cache under attn_implementation={kernel!r}: a flash kernel is not told which "
    "places of the cache are empty. Leave out cache_implementation='static' (or pass a DynamicCache), or load the "
    "backbone with attn_implementation='sdpa'."
)
SLIDING = (
    "This KV cache keeps the last {window} tokens in layers with a sliding window, and the sequence has {length} now: "
    "steering no longer knows which of the keys carry which modality. Shorten the prompt, or pass "
    "past_key_values=transformers.DynamicCache(), which keeps all keys."
)


def check_empty(key_values: Any, kernel: str) -> None:
    """Before a pass that reads prompts.

    Args:
        key_values: the pass's cache, or ``None``.
        kernel: attention implementation of the model without steering.

    Raises:
        ValueError: for a static cache under a flash kernel.
    """
    if "flash" in kernel and getattr(key_values, "is_compileable", False):
        raise ValueError(STATIC_FLASH.format(kernel=kernel))


def check_filled(key_values: Any, length: int) -> None:
    """Before a pass over ``length`` tokens that continues cached prompts.

    Raises:
        ValueError: if the first keys are no longer the prompt's.
    """
    for layer in getattr(key_values, "layers", ()):
        total = int(layer.get_seq_length()) + length
        if layer.is_sliding and total > (window := layer.get_max_length()):
            raise ValueError(SLIDING.format(window=window, length=total))
