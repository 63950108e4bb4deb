"""Batches of like length: a shuffled order in which clips of similar token count meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of indices, grouped by token count.

    Per epoch: shuffle, cut into mega-batches of ``bucket`` global batches, sort each by length, cut into global batches
    of ``batch_size * world_size`` clips, shuffle these. A pure function of (seed, epoch, global batch size), the same
    on every process; process ``rank`` takes every ``world_size``-th clip of each global batch. So two processes with
    batches of 8 see at each step what one process with batches of 16 sees, and their clips are of like length.

    Args:
        lengths: tokens per clip.
        batch_size: clips per batch and process.
        seed: of the order.
        bucket: mega-batch size in global batches; 1 turns grouping off.
        rank: this process.
        world_size: number of processes.

    Attributes:
        start: batches that the next epoch leaves out (it was interrupted after them); its length stays the same.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        bucket: int = 50,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or bucket < 1:
            raise ValueError(f"batch_size={batch_size} and bucket={bucket} must be at least 1.")
        if len(lengths) < 1:
            raise ValueError("There are no clips to sample from. Check the manifest's path, split and subset.")
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.bucket = batch_size, seed, bucket
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order (Lightning calls this)."""
        self.epoch = epoch

    @property
    def sampler(self) -> BucketBatchSampler:
        """Itself: Lightning calls ``set_epoch`` on a batch sampler's ``sampler``, never on the batch sampler."""
        return self

    def __len__(self) -> int:
        return -(-len(self.lengths) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for batch in self.all_batches()[start:]:
            yield batch[self.rank :: self.world_size].tolist()

    def all_batches(self) -> np.ndarray:
        """``[steps, world_size * batch_size]`` indices of the whole epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        together = self.world_size * self.batch_size
        total = len(self) * together
        order = np.resize(order, total)  # cuts, or repeats from the start
        mega = self.bucket * together
        parts = [order[start : start + mega] for start in range(0, total, mega)]
        grouped = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
        return rng.permutation(grouped.reshape(-1, together), axis=0)
