"""Say whom a model follows where face and voice disagree.

``mosear bias --backbone tiny-omni`` asks a backbone about rendered conflicts (``--manifest FILE`` about others);
``mosear bias --adapter RUN/adapter`` asks a tuned one; ``mosear bias RUN`` reads the answers of a finished run.
Several of them share one figure. Writes bias.json, bias.svg and bias.html.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mosear.predict import TRUST_HELP

if TYPE_CHECKING:
    from rich.table import Table

    from mosear.evaluation.bias import Direction
    from mosear.evaluation.bias_of_runs import Answered

N_BOOT = 10_000
CLIPS = Path("data") / "conflicts"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="mosear bias", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="finished runs, read and not run again")
    parser.add_argument(
        "--backbone", action="append", default=[], help="embedded name, checkpoint directory or hub id; repeatable"
    )
    parser.add_argument(
        "--adapter", action="append", default=[], type=Path, help="RUN or RUN/adapter of a tuned model; repeatable"
    )
    parser.add_argument("--manifest", type=Path, help="clips with labels of face and voice (default: rendered ones)")
    parser.add_argument("--clips", type=int, default=100, help="rendered clips per kind of conflict (default: 100)")
    parser.add_argument("--data", type=Path, default=CLIPS, help=f"where they are rendered (default: {CLIPS})")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="config overrides")
    parser.add_argument("--out", type=Path, default=Path("bias"), help="directory for the results (default: bias)")
    parser.add_argument("--n-boot", type=int, default=N_BOOT, help=f"bootstrap replicates (default: {N_BOOT})")
    parser.add_argument("--batch-size", type=int, help="clips per step (default: data.eval_batch_size)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help=TRUST_HELP)
    args = parser.parse_args(arguments)
    for name in ("clips", "n_boot", "batch_size"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not (args.runs or args.backbone or args.adapter):
        args.backbone = ["tiny-omni"]
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_arguments(arguments)
    from rich.console import Console

    from mosear.evaluation.bias import ALL, by_speaker, directions, verdict
    from mosear.evaluation.report.bias_page import write_bias

    console = Console()
    try:
        systems = answered(args)
        found = {one.name: directions(one.found, one.labels, n_boot=args.n_boot) for one in systems}
        if len(found) < len(systems):
            raise ValueError(f"Two systems have one name: {', '.join(one.name for one in systems)}. Give each once.")
        clustered = all(by_speaker(one.found) for one in systems)
        told = str(args.manifest) if args.manifest else "clips of the runs" if args.runs else "rendered clips"
        write_bias(args.out, found, clips=told, clustered=clustered, n_boot=args.n_boot)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, parts in found.items():
        console.print(table(name, parts))
        console.print(f"{name}: {verdict(parts[ALL])}.\n", markup=False, highlight=False)
    console.print(f"Figure and page: {args.out}", markup=False, soft_wrap=True, highlight=False)
    return 0


def answered(args: argparse.Namespace) -> list[Answered]:
    """The answers of everything that the command line names."""
    from mosear.evaluation.bias_of_runs import of_run

    systems = [one for run in args.runs for one in of_run(run, args.manifest)]
    asked: list[tuple[str, str | None, Path | None]] = [(name, name, None) for name in args.backbone]
    asked += [(str(path), None, path) for path in args.adapter]
    if not asked:
        return systems
    from mosear.runtime.quiet import quiet_libraries

    quiet_libraries()
    from mosear.runtime.bias import answer, opened, synthetic_conflicts

    manifest = args.manifest or synthetic_conflicts(args.data, args.clips)
    for name, backbone, adapter in asked:
        run = opened(backbone, adapter, args.overrides, manifest=manifest, trust_remote_code=args.trust_remote_code)
        systems.append(answer(name, run, manifest, device=args.device, batch_size=args.batch_size))
    return systems


def table(name: str, parts: Mapping[str, Direction]) -> Table:
    """What the terminal shows of one system; the page shows more."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    from mosear.evaluation.report.bias_page import COLUMNS, cells

    shown = Table(title=Text(f"{name}: answers in %, direction from -1 (voice) to +1 (face)"), box=SIMPLE, padding=0)
    for heading in ("clips", "n", "face", "voice", "direction", "beyond evidence"):
        shown.add_column(heading, justify="left" if heading == "clips" else "right", no_wrap=True)
    for part, direction in parts.items():
        numbers = dict(zip(COLUMNS, cells(direction), strict=True))
        wide = [" ".join(numbers[column]).strip() for column in ("direction", "beyond it")]
        row = [part.replace("_", " "), str(direction.n), numbers["face"][0], numbers["voice"][0], *wide]
        shown.add_row(*map(Text, row))
    return shown
