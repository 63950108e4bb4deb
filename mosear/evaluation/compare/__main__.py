"""One page that compares runs: ``mosear compare outputs/eval/* --out comparison.html``.

Tables and plots with intervals, tests against a reference system that are corrected for their number, and the clips
themselves to look at. The page is one file without outside resources; media are linked by relative paths.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mosear.evaluation.compare import CLIPS, N_BOOT, compare


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="mosear compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", help="run directories, multirun directories, or NAME=DIRECTORY")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), help="the page (comparison.html)")
    parser.add_argument("--reference-system", help="compare the others with this one (the bare backbone, or the first)")
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"clips to put into the page ({CLIPS})")
    parser.add_argument("--media", type=Path, help="directory that media paths are relative to")
    parser.add_argument("--n-boot", type=int, default=N_BOOT, help=f"bootstrap replicates ({N_BOOT})")
    parser.add_argument("--title", help="heading of the page")
    args = parser.parse_args(arguments)
    try:
        scored = compare(
            args.runs,
            args.out,
            reference_system=args.reference_system,
            clips=args.clips,
            media=args.media,
            n_boot=args.n_boot,
            title=args.title,
        )
    except ValueError as error:
        parser.error(str(error))
    for one in scored:
        systems = [name for name, system in one.benchmark.systems.items() if not system.control]
        print(f"{one.benchmark.name}: {', '.join(systems)}; reference: {one.reference}")
    print(f"Comparison: {args.out}")


if __name__ == "__main__":
    main()
