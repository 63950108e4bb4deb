"""The training loader: it can start inside an epoch, and its workers outlive a request to stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from mosear.data.dataset import Item
from mosear.data.sampling import BucketBatchSampler

GRACE_SECONDS = 60
"""How long a worker goes on after SIGTERM: enough for a checkpoint."""


class ResumableLoader(DataLoader[Item]):
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
