"""What the processes of one run tell one another in a training step. A single process computes as if alone.

The unit is the global batch: what one process with ``world_size`` times the batch size would see. A sum over processes
is taken of losses and counts, never of means, so that unequal shares weigh what they should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed

from mosear.backbones.partitioned import weights_are_partitioned

if TYPE_CHECKING:
    from mosear.data.sample import OmniBatch

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number."""
    return distributed.get_rank() if world_size() > 1 else 0


def total(value: Tensor) -> Tensor:
    """Sum over processes of a tensor of one shape, without gradients."""
    summed = value.detach().clone()
    if world_size() > 1:
        distributed.all_reduce(summed)
    return summed


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is true on some process; the answer is the same on all."""
    return flag if world_size() == 1 else bool(total(torch.tensor(float(flag), device=device)))


@dataclass(frozen=True)
class Part:
    """This process's part of a global batch.

    Attributes:
        batch: never empty. A process without a clip of its own runs another's, because partitioned weights are
            gathered by all processes together, and counts it zero times.
        counted: whether ``batch`` counts.
        clips: clips of the global batch.
    """

    batch: OmniBatch
    counted: bool
    clips: int

    @classmethod
    def of_sampler(cls, batch: OmniBatch) -> Part:
        """What the sampler gave this process: equal shares."""
        return cls(batch, True, len(batch) * world_size())

    @property
    def positions(self) -> list[int]:
        """Positions of the clips in the global batch."""
        own = range(rank(), self.clips, world_size())
        return list(own) if self.counted else [0]


def joined(own: Sequence[T]) -> list[T]:
    """The global batch, in its own order, from equal shares of it (picklable, on the CPU)."""
    if world_size() == 1:
        return list(own)
    parts: list[Any] = [None] * world_size()
    distributed.all_gather_object(parts, list(own))
    assert len({len(part) for part in parts}) == 1, "the sampler gives every process as many clips"
    return [entry for row in zip(*parts, strict=True) for entry in row]


def share_of(everything: Sequence[T]) -> tuple[list[T], bool]:
    """This process's share: every so-many-th entry, or the first, uncounted, where there are too few."""
    own = list(everything[rank() :: world_size()])
    return (own, True) if own else ([everything[0]], False)


def mean_loss(summed: Tensor, count: Tensor | float, *, counted: bool = True) -> tuple[Tensor, Tensor]:
    """The mean of a loss over the global batch, from this process's sum and count.

        for backward:  world_size * sum_own / sum over processes of count      (gradients are averaged over processes)
        for logs:      sum over processes of sum / sum over processes of count

    Args:
        summed: differentiable scalar.
        count: what it was summed over.
        counted: see :class:`Part`.
    """
    if world_size() == 1:
        mean = summed / count
        return mean, mean.detach()
    weight = float(counted)
    both = torch.stack([summed.detach().float() * weight, torch.as_tensor(count, device=summed.device) * weight])
    loss, everything = total(both)
    return summed * (weight * world_size() / everything), loss / everything


def mean_of_clips(values: Tensor, *, counted: bool = True) -> Tensor:
    """:func:`mean_loss` of one value per clip, ``[B]``."""
    if world_size() == 1:
        return values.mean()
    return mean_loss(values.sum(), float(len(values)), counted=counted)[0]


def mean_over_processes(values: Tensor, *, counted: bool = True) -> Tensor:
    """The mean of ``[B]`` values over the global batch, without gradients."""
    if world_size() == 1:
        return values.mean()
    return mean_loss(values.sum(), float(len(values)), counted=counted)[1]


def gathered(own: list[Any]) -> list[Any]:
    """What all processes found in an evaluation, joined (just ``own`` where each has seen all clips)."""
    if world_size() == 1 or weights_are_partitioned():
        return own
    parts: list[list[Any] | None] = [None] * world_size()
    distributed.all_gather_object(parts, own)
    return [entry for part in parts for entry in part or []]
