"""Turns a published data set into a manifest.

python -m mosear prepare --list
python -m mosear prepare crema-d-conflict --root CREMA-D --out data/crema-d-conflict.parquet
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mosear.data.clip import MODALITIES

if TYPE_CHECKING:
    from rich.console import Console

    from mosear.data.sources import Reading, Request, Row, Source
    from mosear.data.sources.checks import BadFile, Finding

_SPLITS = ("train", "val", "test")
_BAD_FILES_SHOWN = 10


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; imports nothing heavy."""
    from mosear.data.conflict_rules import RuleName
    from mosear.data.sources import NAMES

    parser = argparse.ArgumentParser(
        prog="mosear prepare",
        description="Read the published layout of a data set, check it, and write a manifest. Media stays where it is.",
        epilog="--list shows the files that each importer expects; docs/importers.md, what is checked.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"data set: {', '.join(NAMES)}")
    parser.add_argument("--list", action="store_true", help="list the importers with their expected trees, and stop")
    parser.add_argument("--root", type=Path, help="directory of the data set")
    parser.add_argument(
        "--out", type=Path, help="manifest to write, .parquet or .jsonl; {split} in the name writes one per split"
    )
    parser.add_argument("--split", choices=_SPLITS, help="write this split only")
    parser.add_argument(
        "--fold", type=int, help="test fold, from 1 (default: every clip is a test clip, or see --list)"
    )
    parser.add_argument("--rule", choices=get_args(RuleName), help="conflict rule that names subsets")
    parser.add_argument("--min-agreement", type=float, default=0.0, help="least share of votes for a majority")
    parser.add_argument("--per-subset", type=int, help="at most so many clips of each subset and split")
    parser.add_argument(
        "--missing", default="", help="also list test clips without these modalities: video,audio,text (any of them)"
    )
    parser.add_argument("--language", choices=("original", "english"), default="original", help="which transcript")
    parser.add_argument(
        "--emotions",
        nargs="?",
        type=Path,
        const=True,
        default=False,
        metavar="CSV",
        help="fill the column labels with emotions, from a table or, without CSV, from the data set's own",
    )
    parser.add_argument(
        "--on-missing", choices=("error", "skip"), default="error", help="clips whose media cannot be used"
    )
    parser.add_argument(
        "--check-media", choices=("headers", "none"), default="headers", help="none: only see that the files are there"
    )
    parser.add_argument("--allow-leakage", action="store_true", help="write the manifest although splits share groups")
    options = parser.parse_args(arguments)
    if not options.list:
        lacking = [name for name in ("name", "root", "out") if getattr(options, name) is None]
        if lacking:
            parser.error(f"give NAME, --root and --out (or --list); missing: {', '.join(lacking)}")
    options.missing = [name.strip() for name in options.missing.split(",") if name.strip()]
    unknown = [name for name in options.missing if name not in MODALITIES]
    if unknown:
        parser.error(f"--missing takes {', '.join(MODALITIES)}; got {', '.join(unknown)}")
    if options.per_subset is not None and options.per_subset < 1:
        parser.error(f"--per-subset must be at least 1, got {options.per_subset}")
    return options


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Runs the command and returns the manifests that it wrote."""
    options = parse_arguments(arguments)
    try:
        if options.list:
            list_sources()
            return []
        return run(options)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on from here") from None


def list_sources() -> None:
    """Prints every importer."""
    from rich.console import Console

    from mosear.data.sources import NAMES, source
    from mosear.data.sources.report import description

    console = Console()
    for name in NAMES:
        console.print(description(source(name)), soft_wrap=True, markup=False, highlight=False)


def run(options: argparse.Namespace) -> list[Path]:
    """Imports, checks, writes, and prints the summary.

    Raises:
        ValueError: The directory is not as expected, a check failed, or media is missing.
    """
    from rich.console import Console

    from mosear.data.rows import manifest_kind
    from mosear.data.sources import Request, source
    from mosear.data.sources.base import tally_of
    from mosear.data.sources.checks import check_rows
    from mosear.data.sources.report import print_summary
    from mosear.data.sources.select import at_most_per_subset, of_split, with_missing

    manifest_kind(options.out)
    console = Console()
    importer = source(options.name)
    # Resolved, since --root is compared with the manifest's directory and named in a command to copy.
    request = Request(
        options.root.resolve(),
        options.out.resolve(),
        options.fold,
        options.rule,
        options.min_agreement,
        options.language,
        options.emotions,
    )
    reading = importer.import_from(request)
    tally = tally_of(reading.rows) if reading.tally is None else reading.tally
    findings = check_rows(reading.rows, importer, tally, importer.counts(request))
    _raise_errors(findings, reading, importer, options.allow_leakage, console)
    reading.rows = at_most_per_subset(of_split(reading.rows, options.split), options.per_subset)
    root = reading.media_root or request.root
    bad = _make_and_check_media(reading, root, options, findings, console)
    rows = with_missing(_usable(reading.rows, bad, options, request), options.missing)
    paths = _write(rows, request.out)
    print_summary(console, importer, reading, rows, findings, bad)
    _print_use(console, importer, paths, root)
    return paths


def _raise_errors(
    findings: list[Finding], reading: Reading, importer: Source, allow_leakage: bool, console: Console
) -> None:
    from mosear.data.sources.report import print_summary

    errors = [found for found in findings if found.status == "error"]
    if allow_leakage:
        errors = [found for found in errors if found.check != "leakage"]
    if errors:
        print_summary(console, importer, reading, reading.rows, findings, [])
        told = "\n".join(f"  {found.check}: {found.text}" for found in errors)
        hint = " (--allow-leakage writes it all the same)" if all(e.check == "leakage" for e in errors) else ""
        raise ValueError(f"{importer.name} failed {len(errors)} checks, no manifest was written{hint}:\n{told}")


def _make_and_check_media(
    reading: Reading, root: Path, options: argparse.Namespace, findings: list[Finding], console: Console
) -> list[BadFile]:
    from rich.progress import MofNCompleteColumn, Progress

    from mosear.data.sources.checks import check_files, check_same_content

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as progress:
        wanted = {row.clip.video for row in reading.rows}
        jobs = [job for job in reading.remuxes if job.target.relative_to(root).as_posix() in wanted]
        if jobs:
            from mosear.data.sources.remux import remux_all

            making = progress.add_task("Making clips", total=len(jobs))
            remux_all(jobs, lambda: progress.advance(making), skip_bad=options.on_missing == "skip")
        checking = progress.add_task("Checking media", total=len(reading.rows))
        clips = [row.clip for row in reading.rows]
        bad = check_files(clips, root, options.check_media, lambda: progress.advance(checking))
    if options.check_media == "headers":
        findings.append(check_same_content(reading.rows, root))
    return bad


def _usable(rows: list[Row], bad: list[BadFile], options: argparse.Namespace, request: Request) -> list[Row]:
    """The rows with usable media.

    Raises:
        ValueError: Some are not and ``--on-missing`` is ``error``, or none is.
    """
    if bad and (options.on_missing == "error" or len(bad) == len(rows)):
        shown = "\n".join(f"  {file}" for file in bad[:_BAD_FILES_SHOWN])
        more = f"\n  ... and {len(bad) - _BAD_FILES_SHOWN} more" if len(bad) > _BAD_FILES_SHOWN else ""
        raise ValueError(
            f"{len(bad)} of {len(rows)} clips have media that cannot be used:\n{shown}{more}\nFetch the files, or "
            f"leave these clips out with --on-missing skip; is {request.root} the right --root?"
        )
    unusable = {file.clip_id for file in bad}
    return [row for row in rows if row.clip.id not in unusable]


def _write(rows: Sequence[Row], out: Path) -> list[Path]:
    from mosear.data.manifest import write_manifest

    if "{split}" not in out.name:
        return [write_manifest([row.clip for row in rows], out)]
    splits = [split for split in _SPLITS if any(row.clip.split == split for row in rows)]
    return [
        write_manifest(
            [row.clip for row in rows if row.clip.split == split], out.with_name(out.name.replace("{split}", split))
        )
        for split in splits
    ]


def _print_use(console: Console, importer: Source, paths: Sequence[Path], root: Path) -> None:
    for path in paths:
        console.print(f"wrote {path}", soft_wrap=True, markup=False, highlight=False)
    lines = ["use it with:"]
    if any(path.parent != root for path in paths):
        lines.append(f"  data.root={root}")
    if importer.labels is not None:
        lines.append(f"  'data.prompt.labels=[{', '.join(importer.labels)}]'")
    if len(lines) > 1:
        console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    main()
