"""One page that compares runs.

Tables and plots with intervals, tests against a reference system that are corrected for their number, and the clips
themselves to look at. The page is one file without outside resources; media are linked by relative paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mosear.evaluation.report.compare_page import Scored

N_BOOT, CLIPS = 10_000, 500


def compare(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    reference_system: str | None = None,
    clips: int = CLIPS,
    media: str | Path | None = None,
    n_boot: int = N_BOOT,
    title: str | None = None,
) -> list[Scored]:
    """Compare finished runs and write the page.

    Args:
        runs: run directories, directories with runs below them, or ``NAME=DIRECTORY``.
        out: the file to write.
        reference_system: name of the system that the others are compared with; the bare backbone if it is there.
        clips: how many clips to put into the page, over all benchmarks.
        media: directory that media paths are relative to, if it is no longer the one of the runs' manifests.
        n_boot: bootstrap replicates.
        title: heading of the page.

    Returns:
        The numbers on the page, one entry per benchmark.

    Raises:
        ValueError: if the runs cannot be compared; the message says why and what to do.
    """
    # Imported here, because Hydra imports this package for its callback whenever a job starts.
    from mosear.evaluation.compare.clips import Media, choose, clip_records
    from mosear.evaluation.compare.collect import collect, find_runs
    from mosear.evaluation.compare.scores import (
        accuracies,
        against_controls,
        choose_reference,
        corrected,
        differences,
        resample,
    )
    from mosear.evaluation.report.compare_page import Scored, write_comparison

    if clips < 0:
        raise ValueError(f"clips={clips} must be 0 or more.")
    benchmarks = collect(find_runs(runs))
    references = [choose_reference(benchmark, reference_system) for benchmark in benchmarks]
    resampled = [resample(benchmark, n_boot=n_boot) for benchmark in benchmarks]
    tested = [differences(*entry) for entry in zip(benchmarks, resampled, references, strict=True)]
    family = corrected([entry for own in tested for entry in own])
    place, scored, folder = 0, [], Path(out)
    for benchmark, reference, drawn, own in zip(benchmarks, references, resampled, tested, strict=True):
        chosen = choose(benchmark, clips // len(benchmarks))
        scored.append(
            Scored(
                benchmark=benchmark,
                reference=reference,
                accuracies=accuracies(benchmark, drawn),
                differences=family[place : place + len(own)],
                against_controls=against_controls(benchmark, drawn),
                clips=clip_records(benchmark, chosen, Media(folder, Path(media) if media is not None else None)),
            )
        )
        place += len(own)
    names = {name for one in scored for name, system in one.benchmark.systems.items() if not system.control}
    where = ", ".join(one.benchmark.name for one in scored)
    folder.parent.mkdir(parents=True, exist_ok=True)
    heading = title or f"{len(names)} system{'s' * (len(names) != 1)} on {where}"
    write_comparison(folder, scored, title=heading, n_boot=n_boot)
    return scored
