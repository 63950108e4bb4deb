"""Convert published features once, into files that are read without pickles.

``mosear features import LAYOUT --source FILES --out DIR`` reads a layout, checks and counts, and writes DIR;
``mosear features import LAYOUT --help`` shows the files that it expects. ``mosear features show DIR`` says what is in
a converted directory. Pickles are read without running what is in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosear.features.layouts import Layout


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    from mosear.features.layouts import LAYOUTS

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="mosear features", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="import|show")
    show = commands.add_parser("show", help="what is in a converted directory")
    show.add_argument("directory", type=Path, metavar="DIR")
    importing = commands.add_parser("import", help="convert published features")
    layouts = importing.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    for name, layout in LAYOUTS.items():
        told = f"{layout.title}\n\n{layout.tree}\n\n{layout.evidence}"
        _add_common(layouts.add_parser(name, help=layout.title, description=told, formatter_class=raw), layout)
    parsed = parser.parse_args(arguments)
    if parsed.command == "import":
        parsed.labels = [name.strip() for name in parsed.labels.split(",") if name.strip()]
        if len(set(parsed.labels)) != len(parsed.labels):
            parser.error(f"--labels names a label twice: {','.join(parsed.labels)}")
    return parsed


def _add_common(parser: argparse.ArgumentParser, layout: Layout) -> None:
    from mosear.features.expected import KNOWN

    parser.add_argument("--source", type=Path, required=True, help="the published file or directory")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace features that --out holds")
    parser.add_argument("--labels", default="", metavar="A,B,..", help="names of class indices, from 0")
    parser.add_argument("--expect", choices=KNOWN, help="compare counts and dimensions with what is published of it")
    parser.add_argument("--allow-mismatch", action="store_true", help="write although --expect found differences")
    layout.add_arguments(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        show(options.directory) if options.command == "show" else convert(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def show(directory: Path) -> None:
    """Print what is in a converted directory."""
    from rich.console import Console

    from mosear.features.report import print_features
    from mosear.features.store import read_about

    print_features(Console(), read_about(directory))


def convert(options: argparse.Namespace) -> None:
    """Read, check, write, and print the summary."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from mosear.features.layouts import LAYOUTS
    from mosear.features.report import print_features
    from mosear.features.writing import check_target, write_store

    check_target(options.out, options.overwrite)
    if not options.source.exists():
        raise ValueError(f"--source {options.source} is not there")
    console = Console()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as progress:
        task = progress.add_task(f"Reading {options.source.name}", total=None)
        reading = LAYOUTS[options.layout].read(options.source, options)
        progress.update(task, description="Converting clips", total=sum(reading.counts.values()))
        about = write_store(
            options.out,
            reading,
            options.layout,
            labels=options.labels,
            overwrite=options.overwrite,
            check=lambda found: check(found, options.expect, options.allow_mismatch),
            advance=lambda: progress.advance(task),
        )
    print_features(console, about)
    console.print(f"wrote {options.out}", soft_wrap=True, markup=False, highlight=False)


def check(about: dict[str, Any], expect: str | None, allow_mismatch: bool) -> None:
    """Compare with what is published; a difference that is allowed becomes a note.

    Raises:
        ValueError: They differ, and that is not allowed.
    """
    from mosear.features.expected import differences

    found = [] if expect is None else differences(expect, about)
    if found and not allow_mismatch:
        told = "\n".join(f"  {line}" for line in found)
        raise ValueError(
            f"these are not the published features of {expect}, nothing was written "
            f"(--allow-mismatch writes them all the same):\n{told}"
        )
    if found:
        about["notes"] = [*about["notes"], *(f"differs from {expect}: {line}" for line in found)]
    elif expect is not None:
        about["notes"] = [*about["notes"], f"counts and dimensions are those of {expect}"]
