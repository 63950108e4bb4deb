"""What transformers' ``generate`` does differently on a thinker whose passes have listeners."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor

from mosear.backbones.sequences import open_states, sequence_state


def take_over(thinker: Any) -> None:
    """Replace the methods of one thinker; its class stays as it is."""
    for name, method in _METHODS.items():
        setattr(thinker, name, MethodType(method, thinker))


def give_back(thinker: Any) -> None:
    """The class's own methods apply again."""
    for name in _METHODS:
        delattr(thinker, name)


def _generate(thinker: Any, *args: Any, **kwargs: Any) -> Any:
    """The thinker's own ``generate``. Without a KV cache its passes read the answer so far as well: say where it began.

    With a cache, the passes that continue the prompt tell themselves apart.
    """
    given = inspect.signature(type(thinker).generate).bind(thinker, *args, **kwargs).arguments
    options = {**given.get("kwargs", {}), **given}
    ids = next((options[name] for name in ("input_ids", "inputs") if options.get(name) is not None), None)
    uses_cache = options.get("use_cache")
    if uses_cache is None:
        uses_cache = (options.get("generation_config") or thinker.generation_config).use_cache
    if uses_cache is not False or ids is None or open_states(thinker):
        return type(thinker).generate(thinker, *args, **kwargs)
    with sequence_state(thinker, prompt_length=ids.shape[1]):
        return type(thinker).generate(thinker, *args, **kwargs)


def _mask_of_tokens(thinker: Any, *, attention_mask: Tensor | None, **_: Any) -> Tensor | None:
    """With a static cache, ``generate`` makes the mask of queries by keys itself, which no longer says what is padding.

    The thinker makes the same one from the mask of tokens.
    """
    return attention_mask


def _plain_call(thinker: Any, compile_config: Any) -> Callable[..., Any]:
    """With a static cache, ``generate`` compiles the passes on a GPU; listeners are Python that runs in every pass."""
    call: Callable[..., Any] = thinker.__call__
    return call


_METHODS: dict[str, Callable[..., Any]] = {
    "generate": _generate,
    "create_masks_for_generate": _mask_of_tokens,
    "get_compiled_call": _plain_call,
}
