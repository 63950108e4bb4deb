"""One table from many runs: ``python -m mosear.evaluation.aggregate outputs/lora/* --markdown table.md``.

Systems, bases, seeds and controls are those of :mod:`mosear.evaluation.compare`, and so are the intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.compare import N_BOOT
from mosear.evaluation.compare.collect import Benchmark, find_runs
from mosear.evaluation.compare.collect import collect as collect_benchmarks
from mosear.evaluation.compare.scores import own_numbers, questions, resample
from mosear.evaluation.kinds import SCORINGS
from mosear.files import written_atomically


def collect(run_dirs: Sequence[str | Path], reference: Sequence[str | Path] = ()) -> Benchmark:
    """The systems behind some runs.

    Args:
        run_dirs: run directories, directories with runs below them, or ``NAME=DIRECTORY``.
        reference: the same, on a backbone that is no further base but a control, say one without the bias; its systems
            are named after it.

    Raises:
        ValueError: if a directory holds no finished run, or the runs do not belong into one table.
    """
    benchmarks = collect_benchmarks(find_runs(run_dirs), find_runs(reference))
    if len(benchmarks) != 1:
        names = ", ".join(benchmark.name for benchmark in benchmarks) or "none"
        raise ValueError(f"A table is about one benchmark, these runs are about {names}. Give the runs of one.")
    return benchmarks[0]


def table(benchmark: Benchmark, *, n_boot: int = N_BOOT) -> list[list[str]]:
    """Header and one row per system: accuracy per subset, conflict mean and gap, in percent with 95 % intervals.

    Sets of labels, scores and series have the numbers that lead their kind in further columns: means over runs.
    """
    asked, resampled = questions(benchmark), resample(benchmark, n_boot=n_boot)
    own = own_numbers(benchmark, SCORINGS[benchmark.kind].headline())
    headings = [*asked, *(f"{subset} {number.heading}" for subset, number, _ in own)]
    rows = [["system", "bases x seeds", *(key.replace("_", " ") for key in headings)]]
    for system in benchmark.systems.values():
        size = f"{len(system.hits)} x {min(map(len, system.hits.values()))}"
        cells = [_cell(resampled.interval(system.name, *entry)) for entry in asked.values()]
        rows.append([system.name, size, *cells, *(number.text(means.get(system.name)) for _, number, means in own)])
    return rows


AVERAGED = ("consistent", "video_aligned", "audio_aligned", "contextual")
"""Subsets with all three modalities, whose mean says what a method gives and takes."""


def mean_of_four(means: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean over consistent, video-aligned, audio-aligned and contextual clips."""
    return np.mean([means[subset] for subset in AVERAGED], axis=0)


def differences(
    benchmark: Benchmark, pairs: Sequence[tuple[str, str]], *, n_boot: int = N_BOOT, seed: int = 0
) -> list[list[str]]:
    """Header and one row per pair ``(a, b)``: a minus b in points, clips resampled together, with 95 % intervals.

    Raises:
        ValueError: if a pair names an unknown system, or two that share no base.
    """
    asked, resampled = questions(benchmark), resample(benchmark, n_boot=n_boot, seed=seed)
    if set(AVERAGED) <= set(benchmark.subsets):
        asked["mean of four"] = AVERAGED, mean_of_four
    rows = [["difference", *(key.replace("_", " ") for key in asked)]]
    for pair in pairs:
        for name in pair:
            if name not in benchmark.systems:
                known = ", ".join(benchmark.systems)
                raise ValueError(f"There is no system {name!r} in these runs; there are: {known}.")
        cells = [" - ".join(pair)]
        for entry in asked.values():
            if (tested := resampled.difference(*pair, *entry)) is None:
                first, second = map(resampled.bases, pair)
                raise ValueError(f"{pair[0]!r} and {pair[1]!r} were run on different backbones: {first} and {second}.")
            cells.append(_cell(tested[0], sign="+"))
        rows.append(cells)
    return rows


def _cell(interval: Interval, sign: str = "") -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="mosear aggregate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="run directories, multirun directories, or NAME=DIRECTORY")
    parser.add_argument(
        "--minus",
        nargs=2,
        action="append",
        default=[],
        metavar=("A", "B"),
        help="also compare two systems, clip by clip",
    )
    parser.add_argument("--reference", nargs="+", default=[], help="runs on a control backbone")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--n-boot", type=int, default=N_BOOT, help=f"bootstrap replicates ({N_BOOT})")
    args = parser.parse_args(arguments)
    try:
        benchmark = collect(args.runs, args.reference)
        text = markdown(table(benchmark, n_boot=args.n_boot))
        if args.minus:
            text += "\n" + markdown(differences(benchmark, args.minus, n_boot=args.n_boot))
    except ValueError as error:
        parser.error(str(error))
    print(text, end="")
    if args.markdown is not None:
        with written_atomically(args.markdown) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
