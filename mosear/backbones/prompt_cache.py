"""What belongs to the prompts of a KV cache goes where their keys go.

Gate weights, key roles, a steering decision: each is computed in the pass that reads a prompt and needed by every pass
that continues it. The cache's class gets a subclass of itself instead of an entry in some table: copies, and whatever
reorders or expands the cache, then need to know nothing about its companions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class PromptRows:
    """What one owner keeps about the prompts in a cache.

    Attributes:
        tensors: by name, ``[B, ...]`` each.
        length: tokens of the prompts, padding included.
        note: anything that is the same for all rows.
    """

    tensors: dict[Any, Tensor]
    length: int
    note: Any = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> PromptRows:
        """The same with other rows."""
        return replace(self, tensors={name: change(tensor) for name, tensor in self.tensors.items()})

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))


class PromptCache:
    """Mixed into the class of a KV cache by :func:`attach`.

    Attributes:
        prompt_rows: by owner; what is about a prompt that is no longer whole disappears.
    """

    prompt_rows: dict[str, PromptRows]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._change_rows(lambda tensor: tensor[beam_idx.to(tensor.device)])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Some rows go on."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._change_rows(lambda tensor: tensor[indices.to(tensor.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each prompt is shared by several continuations."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._change_rows(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Dropping answer tokens is fine; with part of a prompt gone, what was said about it means nothing."""
        super().crop(*args, **kwargs)  # type: ignore[misc]
        left = int(self.get_seq_length())  # type: ignore[attr-defined]
        self.prompt_rows = {owner: rows for owner, rows in self.prompt_rows.items() if rows.length <= left}

    def reset(self) -> None:
        """The cache is empty again."""
        super().reset()  # type: ignore[misc]
        self.prompt_rows = {}

    def _change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self.prompt_rows = {owner: rows.mapped(change) for owner, rows in self.prompt_rows.items()}


@cache
def _with_rows(cache_class: type) -> type:
    return type(f"Prompt{cache_class.__name__}", (PromptCache, cache_class), {})


def attach(key_values: Any, owner: str, rows: PromptRows) -> None:
    """Let a cache carry ``rows``; what the owner attached before is replaced."""
    if not isinstance(key_values, PromptCache):
        key_values.__class__ = _with_rows(type(key_values))  # type: ignore[arg-type]
        key_values.prompt_rows = {}
    key_values.prompt_rows[owner] = rows


def attached(key_values: Any, owner: str) -> PromptRows | None:
    """What ``owner`` attached, in the cache's present order of rows; ``None`` if it has nothing (left)."""
    return key_values.prompt_rows.get(owner) if isinstance(key_values, PromptCache) else None
