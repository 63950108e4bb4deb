"""What the benchmarks that time several ways of one thing share: options, alternating rounds, peak memory, the run."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MIN_ROUNDS = 3


def add_options(parser: argparse.ArgumentParser, *, rounds: str = "rounds per case") -> None:
    """How often and on what to measure, and where to write everything."""
    parser.add_argument("--repeats", type=int, default=20, help=rounds)
    parser.add_argument(
        "--limit", type=float, default=math.inf, help=f"seconds after which a case stops (>= {MIN_ROUNDS} rounds)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch on the CPU")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: ignores other jobs; 1 thread")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, default=None, help="also write everything that was measured here")


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message if :func:`add_options`'s values cannot be used together."""
    if args.repeats < MIN_ROUNDS:
        parser.error(f"--repeats={args.repeats}: medians need {MIN_ROUNDS} rounds or more.")
    if args.clock == "cpu" and (args.threads != 1 or args.device != "cpu"):
        parser.error("--clock=cpu adds up the threads and does not see a GPU: use it with --threads=1 --device=cpu.")


def timed(
    ways: Sequence[str],
    step: Callable[[str], Any],
    rounds: int,
    args: argparse.Namespace,
    before_round: Callable[[int], None] = lambda number: None,
) -> dict[str, list[float]]:
    """Seconds per way and round. The ways alternate in rotating order, so that a slow minute meets all of them.

    Args:
        ways: names.
        step: runs one way.
        rounds: how many, ``args.limit`` permitting.
        args: of :func:`add_options`.
        before_round: called with the round's number, outside the clock.
    """
    now = cpu_seconds if args.clock == "cpu" else time.perf_counter
    synchronise = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    end = time.perf_counter() + args.limit
    for number in range(rounds):
        if number >= MIN_ROUNDS and time.perf_counter() > end:
            break
        before_round(number)
        turn = number % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            synchronise()
            start = now()
            step(way)
            synchronise()
            seconds[way].append(now() - start)
    return seconds


def cpu_seconds() -> float:
    """Of this process and of the loader workers that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, list[float]]:
    """Each other way's time by round, as a multiple of ``base``'s in the same round."""
    return {
        way: [own / reference for own, reference in zip(values, seconds[base], strict=True)]
        for way, values in seconds.items()
        if way != base
    }


def medians(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of each way's values."""
    return {way: statistics.median(own) for way, own in values.items()}


def quartiles(values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The first and the third, of each way's values."""
    return {way: statistics.quantiles(own, n=4)[::2] for way, own in values.items()}


def peak_bytes(device: str, step: Callable[[str], Any], way: str) -> int:
    """Highest sum of live allocations in a step, above what lives before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(way)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step(way)
    changes = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())))


def run_cases(
    args: argparse.Namespace,
    cases: Sequence[Any],
    compare: Callable[[Any], dict[str, Any]],
    row: Callable[[dict[str, Any]], str],
    head: str,
    libraries: Sequence[ModuleType],
) -> None:
    """Measure one case after the other; print a Markdown table as it grows, and write ``args.json``."""
    torch.set_num_threads(args.threads)
    versions = {module.__name__: module.__version__ for module in libraries}
    versions |= {"python": platform.python_version(), "threads": torch.get_num_threads()}
    print(head, flush=True)
    found = []
    for case in cases:
        found.append(compare(case))
        print(row(found[-1]), flush=True)
        if args.json is not None:  # after each case: a run may take hours
            args.json.write_text(json.dumps({"versions": versions, "cases": found}, indent=1), encoding="utf-8")
