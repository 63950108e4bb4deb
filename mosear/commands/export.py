"""Write a MoSE adapter as a plain LoRA.

``mosear export RUN/adapter --to lora`` freezes gate, token masks and routers at constants taken from a manifest, writes
a standard PEFT LoRA that needs no mosear to load, and prints what accuracy that costs on the manifest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mosear.experts.export.to_lora import FITS
from mosear.predict import TRUST_HELP


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="mosear export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("adapter", type=Path, help="adapter directory of a run; config.yaml lies beside it")
    parser.add_argument("--to", choices=("lora",), required=True, help="the format to write")
    parser.add_argument("--out", type=Path, help="directory of the LoRA (default: adapter_lora beside the adapter)")
    parser.add_argument(
        "--fit",
        choices=FITS,
        default="refit",
        help="'mean': every expert's factor at its mean; 'least-squares': the factors with the least squared error; "
        "'refit' (default): B solved anew for it",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        help="clips to freeze and to score on (default: the run's validation clips, all subsets)",
    )
    parser.add_argument("--limit", type=int, help="use this many clips, evenly spread over the manifest")
    parser.add_argument("--batch-size", type=int, help="clips per step (default: data.eval_batch_size of the run)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    parser.add_argument("--backbone", help="embedded name, checkpoint directory or hub id (default: the run's own)")
    parser.add_argument("--trust-remote-code", action="store_true", help=TRUST_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = vars(parse_arguments(arguments))
    options.pop("to")
    from mosear.runtime.export import Export, cost_table, export_lora
    from mosear.runtime.quiet import quiet_libraries

    quiet_libraries()
    export = Export(**options)
    try:
        report = export_lora(export)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from rich.console import Console

    console = Console()
    console.print(cost_table(report))
    errors = ", ".join(f"{fit} {error:.1%}" for fit, error in report["relative_error"].items())
    console.print(f"relative error of the update: {errors}", markup=False)
    console.print(
        f"{report['fit']}, rank {report['rank']}: {export.target}", markup=False, soft_wrap=True, highlight=False
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
