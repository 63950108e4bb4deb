"""Loaders of clips. The training one can start inside an epoch; workers outlive a request to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from mosear.data.dataset import Item
from mosear.data.resident import ResidentMedia
from mosear.data.sampling import BucketBatchSampler

GRACE_SECONDS = 60
"""How long a worker goes on after SIGTERM: enough for a checkpoint."""


class ClipLoader(DataLoader[Item]):
    """A loader that needs no workers once all of its clips are in memory.

    Args:
        args: of ``DataLoader``.
        resident: media in memory; batches carry it, for who encodes them. ``None`` = none are kept.
        clip_ids: which clips it reads.
        options: of ``DataLoader``.
    """

    def __init__(
        self, *args: Any, resident: ResidentMedia | None = None, clip_ids: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.resident, self.clip_ids = resident, clip_ids

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        return batches if self.resident is None else (replace(own, resident=self.resident) for own in batches)

    def _get_iterator(self) -> _BaseDataLoaderIter:
        if self.resident is not None and self.resident.holds(self.clip_ids):
            workers, self.num_workers = self.num_workers, 0
            try:
                return super()._get_iterator()
            finally:
                self.num_workers = workers
        return super()._get_iterator()


class ResumableLoader(ClipLoader):
    """A loader over a :class:`BucketBatchSampler` whose first epoch may begin at a later batch.

    Batches are counted by who trains on them, not here: workers have fetched more of them than were used.
    """

    def start_at(self, epoch: int, batches: int) -> None:
        """Begin the next iteration inside an epoch, after so many of its batches; later epochs are whole."""
        assert isinstance(self.batch_sampler, BucketBatchSampler)
        self.batch_sampler.set_epoch(epoch)
        self.batch_sampler.start = batches

    def state_dict(self) -> dict[str, Any]:
        """Empty (Lightning asks; having it says that the loader can resume)."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""


def outlive_stop_signals(worker: int) -> None:
    """Schedulers signal every process of a job, but it is for the main one to decide when the workers end.

    A worker would die of SIGTERM at once, and its loader with an error, before the checkpoint is written. It is not
    simply deaf to it, because SIGTERM is also how a loader ends a worker that hangs.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(signum: int, frame: FrameType | None) -> None:
    signal.alarm(GRACE_SECONDS)
