"""The batch sampler: pure, complete, split evenly between processes, and worth its name."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mosear.data.sampling import BucketBatchSampler

LENGTHS = np.random.default_rng(0).integers(20, 2000, size=103).tolist()


def batches(epoch: int = 0, batch_size: int = 8, **options) -> list[list[int]]:
    sampler = BucketBatchSampler(LENGTHS, batch_size, **options)
    sampler.set_epoch(epoch)
    result = list(sampler)
    assert len(result) == len(sampler) and all(len(batch) == batch_size for batch in result)
    return result


def reference(seed: int, epoch: int, bucket: int) -> list[list[int]]:
    """The docstring, step by step."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(LENGTHS)).tolist()
    while len(order) % 8:
        order.append(order[len(order) - len(LENGTHS)])
    grouped = []
    for start in range(0, len(order), bucket * 8):
        grouped += sorted(order[start : start + bucket * 8], key=lambda index: LENGTHS[index])
    cut = [grouped[start : start + 8] for start in range(0, len(grouped), 8)]
    return [cut[index] for index in rng.permutation(len(cut))]


@pytest.mark.parametrize(("seed", "epoch", "bucket"), [(0, 0, 50), (3, 2, 4), (1, 7, 1)])
def test_order_follows_the_description(seed: int, epoch: int, bucket: int) -> None:
    found = batches(epoch, seed=seed, bucket=bucket)
    assert sorted(map(tuple, found)) == sorted(map(tuple, reference(seed, epoch, bucket)))


def test_order_is_a_function_of_seed_and_epoch_alone() -> None:
    np.random.seed(1)
    first = batches(epoch=2, seed=5)
    np.random.seed(2)
    assert batches(epoch=2, seed=5) == first
    assert batches(epoch=3, seed=5) != first and batches(epoch=2, seed=6) != first
    sampler = BucketBatchSampler(LENGTHS, 8, seed=5)
    for epoch in (0, 2, 1, 2):  # where an iteration starts does not depend on those before
        sampler.set_epoch(epoch)
        assert list(sampler) == batches(epoch, seed=5) == list(sampler)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_clip_is_seen_once_and_only_the_fill_up_repeats(world: int) -> None:
    ranks = [batches(rank=rank, world_size=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    counts = Counter(index for rank in ranks for batch in rank for index in batch)
    assert set(counts) == set(range(103)) and max(counts.values()) <= 2
    assert counts.total() == -(-103 // (8 * world)) * 8 * world


@pytest.mark.parametrize(("world", "own"), [(2, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("epoch", [0, 3])
def test_processes_share_the_batches_that_one_process_would_have(world: int, own: int, epoch: int) -> None:
    shares = [batches(epoch, rank=rank, world_size=world, batch_size=own) for rank in range(world)]
    together = [[clip for row in zip(*step, strict=True) for clip in row] for step in zip(*shares, strict=True)]
    assert together == batches(epoch)


def spread(found: list[list[int]]) -> float:
    """Padding as a share of all tokens."""
    longest = sum(max(LENGTHS[index] for index in batch) * len(batch) for batch in found)
    return 1 - sum(LENGTHS[index] for batch in found for index in batch) / longest


def test_grouping_saves_most_of_the_padding_and_one_turns_it_off() -> None:
    assert spread(batches(bucket=50)) < 0.1 < 0.3 < spread(batches(bucket=1))


def test_batches_are_not_in_order_of_length() -> None:
    means = [np.mean([LENGTHS[index] for index in batch]) for batch in batches()]
    assert means != sorted(means) and means != sorted(means, reverse=True)


def test_fewer_clips_than_a_batch_are_repeated() -> None:
    counts = Counter(next(iter(BucketBatchSampler([5, 6, 7], 8))))
    assert sorted(counts) == [0, 1, 2] and sorted(counts.values()) == [2, 3, 3]


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([], {"batch_size": 8}, "no clips to sample from"),
        ([1], {"batch_size": 0}, "batch_size=0"),
        ([1], {"batch_size": 1, "bucket": 0}, "bucket=0"),
    ],
)
def test_mistakes_are_named(lengths, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        BucketBatchSampler(lengths, **options)
