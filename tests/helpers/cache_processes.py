"""Processes that share one feature cache: what each of them does, and how they are started."""

from __future__ import annotations

import multiprocessing
import os
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mosear.backbones.media import EncodedAudio, EncodedVideo, MediaBatch
from mosear.data.cache import FeatureCache

TIMEOUT = 120


def in_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(rank, barrier, *arguments)`` returned in each of ``count`` fresh processes, by rank."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_answer, args=(work, rank, barrier, answers, arguments), daemon=True)
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
        assert process.exitcode == 0, f"a process ended with {process.exitcode}"
    found = dict(answers.get(timeout=TIMEOUT) for _ in processes)
    failures = [answer for answer in found.values() if isinstance(answer, str)]
    assert not failures, failures[0]
    return [found[rank] for rank in range(count)]


def _answer(work: Callable[..., Any], rank: int, barrier: Any, answers: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        answers.put((rank, work(rank, barrier, *arguments)))
    except BaseException:
        barrier.abort()
        answers.put((rank, traceback.format_exc()))


def name_of(index: int) -> str:
    """Of an entry."""
    return f"{index:02x}" + "f" * 62


def media_of(index: int, tokens: int = 60) -> MediaBatch:
    """What the entry holds: every number in it says whose it is, and so does its length."""
    features = torch.full((tokens + index, 32), float(index))
    video = EncodedVideo(features, torch.tensor([index, 4, 6]), 0.5, (features + 0.5,))
    return MediaBatch([video], [EncodedAudio(features + 0.25, index)])


def is_entry(found: MediaBatch, index: int, tokens: int = 60) -> bool:
    """Whether these are the media of :func:`media_of`, whole."""
    expected = media_of(index, tokens)
    video, audio = found.videos[0], found.audios[0]
    return (
        audio.mel_frames == index
        and torch.equal(video.grid, expected.videos[0].grid)
        and torch.equal(video.features, expected.videos[0].features)
        and torch.equal(video.deepstack[0], expected.videos[0].deepstack[0])
        and torch.equal(audio.features, expected.audios[0].features)
    )


def write_and_read(rank: int, barrier: Any, root: Path, bound: int, entries: int, steps: int) -> dict[str, int]:
    """Write and read random entries of a directory, as fast as possible."""
    cache = FeatureCache(root, max_gb=bound / 2**30)
    choose = random.Random(rank)
    found = dict.fromkeys(("read", "absent", "lost", "torn", "evicted", "largest"), 0)
    barrier.wait(TIMEOUT)
    for _ in range(steps):
        own, other = choose.randrange(entries), choose.randrange(entries)
        cache.put(name_of(own), media_of(own))
        found["lost"] += cache.get(name_of(own)) is None
        read = cache.get(name_of(other))
        found["absent" if read is None else "read"] += 1
        found["torn"] += read is not None and not is_entry(read, other)
        found["largest"] = max(found["largest"], cache.size())
    found["evicted"] = cache.evicted
    return found


def hold_an_entry_whose_file_goes(rank: int, barrier: Any, root: Path) -> bool:
    """Read an entry; then its file loses its content, as on a file system that keeps nothing of removed files."""
    cache = FeatureCache(root)
    cache.put(name_of(1), media_of(1, 5000))
    held = cache.get(name_of(1))
    assert held is not None
    os.truncate(cache.path(name_of(1)), 0)
    return is_entry(held, 1, 5000)
