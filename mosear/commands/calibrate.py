"""Find steering settings on validation clips.

``mosear calibrate --policy chase --backbone tiny-omni`` searches settings on validation clips, such that consistent
clips lose nothing, and writes one JSON for ``steering.settings``. An interrupted call goes on where it was when it is
repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mosear.predict import TRUST_HELP
from mosear.steering.calibration.searches import searchable


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="mosear calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--policy",
        metavar="KEY[_KEY]",
        required=True,
        help=f"what to calibrate: {', '.join(searchable())}, or two of them, such as ar_chase",
    )
    parser.add_argument("--backbone", help="embedded name, checkpoint directory or hub id (default: tiny-omni)")
    parser.add_argument("--adapter", type=Path, help="adapter directory of a run; config.yaml lies beside it")
    parser.add_argument("--out", type=Path, help="settings file (default: POLICY.json beside the adapter, or here)")
    parser.add_argument(
        "--manifest", type=Path, help="validation clips (default: those of the run or the corpus, all subsets)"
    )
    parser.add_argument("--limit", type=int, help="use this many clips, evenly spread over the manifest")
    parser.add_argument(
        "--objective",
        choices=("mean", "conflict"),
        default="mean",
        help="mean accuracy of all subsets (default), or of video- and audio-aligned clips",
    )
    parser.add_argument(
        "--detector",
        choices=("masked", "heads"),
        default="masked",
        help="how a policy that decides, such as CHASE, reads evidence",
    )
    parser.add_argument("--trials", type=int, help="try at most so many settings (default: no limit)")
    parser.add_argument("--head-clips", type=int, default=200, help="clips on which each head is tried (default: 200)")
    parser.add_argument("--batch-size", type=int, help="clips per step (default: data.eval_batch_size)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help=TRUST_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier settings file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides, such as data_dir=DIR")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = vars(parse_arguments(arguments))
    from rich.console import Console

    from mosear.runtime.calibrate import Calibration, calibrate, readable, result_table
    from mosear.runtime.quiet import quiet_libraries

    quiet_libraries()
    calibration = Calibration(**options)
    console = Console()
    try:
        outcome = calibrate(calibration, console)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console.print(result_table(outcome))
    for when, found in outcome.settings.scores.get("direction_accuracy", {}).items():
        listed = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
        console.print(f"right direction, {when}: {listed}", markup=False, highlight=False)
    console.print(readable(outcome), markup=False)
    console.print(f"settings: {calibration.target}", markup=False, soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
