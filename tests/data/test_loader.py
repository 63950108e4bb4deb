"""The training loader inside an epoch, and its workers when a scheduler signals every process."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch.utils.data import Dataset, get_worker_info

from mosear.data.loader import ResumableLoader, outlive_stop_signals
from mosear.data.sampling import BucketBatchSampler


class Numbers(Dataset):
    """Itself, and the process that read it."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        return torch.tensor([index, os.getpid() if get_worker_info() is not None else 0])


def loader(workers: int = 0, **options) -> ResumableLoader:
    sampler = BucketBatchSampler([1] * 23, 4, seed=3, **options)
    return ResumableLoader(
        Numbers(),
        batch_sampler=sampler,
        num_workers=workers,
        worker_init_fn=outlive_stop_signals if workers else None,
        prefetch_factor=1 if workers else None,
    )


def epoch(own: ResumableLoader) -> list[list[int]]:
    return [batch[:, 0].tolist() for batch in own]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("done", range(4))
def test_an_epoch_goes_on_where_it_was_left(done, rank):
    whole, resumed = (loader(rank=rank, world_size=2) for _ in range(2))
    whole.batch_sampler.set_epoch(5)
    expected = epoch(whole)
    resumed.start_at(5, done)
    assert len(resumed) == len(expected), "the length of an epoch does not depend on where it starts"
    assert epoch(resumed) == expected[done:]
    assert epoch(resumed) == expected, "the next one is whole"


def test_workers_outlive_a_signal_to_every_process():
    batches = []
    for batch in loader(workers=1):
        batches.append(batch[:, 0].tolist())
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(int(batch[0, 1]), signum)
    assert batches == epoch(loader())
