"""Many small tensors as one: what travels between processes, or is pinned, should be one piece of memory.

A segment of shared memory for each tensor of a batch costs far more than its content: every one is a file descriptor
that the receiver asks the sender's process for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

ALIGNMENT = 16
"""Bytes at a multiple of which a tensor begins: a view of any type may."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies among the bytes of all; stands in its stead while they are packed."""

    start: int
    shape: torch.Size
    dtype: torch.dtype

    def view(self, content: Tensor) -> Tensor:
        """The tensor, as a view of the bytes of all."""
        size = self.shape.numel() * self.dtype.itemsize
        return content[self.start : self.start + size].view(self.dtype).view(self.shape)


class Packer:
    """Lays tensors one behind the other.

    packer = Packer()
    places = [packer.take(tensor) for tensor in tensors]
    content = packer.content()
    same = [place.view(content) for place in places]
    """

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []
        self._end = 0

    def take(self, tensor: Tensor) -> Place:
        """Put a tensor behind those before it."""
        place = Place(self._end, tensor.shape, tensor.dtype)
        piece = tensor.detach().contiguous().view(-1).view(torch.uint8)
        padding = piece.new_zeros(-len(piece) % ALIGNMENT)
        self._pieces += [piece, padding]
        self._end += len(piece) + len(padding)
        return place

    def content(self) -> Tensor:
        """uint8, the bytes of all."""
        content = torch.empty(0, dtype=torch.uint8)
        if not self._end:
            return content
        if get_worker_info() is not None:
            # In shared memory from the start, as in torch's default_collate: the pickler need not copy it there.
            content.set_(torch.UntypedStorage._new_shared(self._end))
        return torch.cat(self._pieces, out=content)
