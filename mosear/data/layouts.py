"""Prompts that have been laid out as tokens, kept for the next clip with the same words and the same sizes of media."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from torch import Tensor

KEPT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Layout:
    """The tokens of a sequence, whatever its media show. Samples share these tensors: nothing may write to them.

    Attributes:
        input_ids: ``[L]``.
        position_ids: ``[3, L]``.
        roles: ``[L]``.
        transcript: ``[L]`` bool.
        labels: ``[L]``.
        prompt_length: tokens before the answer.
        placeholders: tokens of ``video`` and ``audio`` that features must fill.
    """

    input_ids: Tensor
    position_ids: Tensor
    roles: Tensor
    transcript: Tensor
    labels: Tensor
    prompt_length: int
    placeholders: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes."""
        tensors = (self.input_ids, self.position_ids, self.roles, self.transcript, self.labels)
        return sum(tensor.nbytes for tensor in tensors)


class Layouts:
    """The layouts that were used last, up to a number of bytes. Threads may share it; other processes get it empty.

    Args:
        kept_bytes: of all layouts together.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self.kept_bytes = kept_bytes
        self._clear()

    def get(self, key: Hashable, make: Callable[[], Layout]) -> Layout:
        """The layout of ``key``, made if it is not there."""
        with self._lock:
            found = self._known.pop(key, None)
            if found is not None:
                self._known[key] = found  # the last one to go
                return found
        found = make()
        with self._lock:
            if key not in self._known:
                self._known[key] = found
                self._bytes += found.size
            while self._bytes > self.kept_bytes:
                self._bytes -= self._known.pop(next(iter(self._known))).size
        return found

    def __len__(self) -> int:
        return len(self._known)

    def _clear(self) -> None:
        self._known: dict[Hashable, Layout] = {}
        self._bytes = 0
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"kept_bytes": self.kept_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.kept_bytes = state["kept_bytes"]
        self._clear()
