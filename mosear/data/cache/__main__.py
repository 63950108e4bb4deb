"""Fills the cache of encoder outputs, so that a run decodes no video at all.

python -m mosear cache --backbone tiny-omni --manifest train.parquet val.parquet --dir data/cache
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mosear.data.cache.build import BuildReport
    from mosear.data.cache.store import FeatureCache

BAD_CLIPS_SHOWN = 50


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="mosear cache",
        description="Decode and encode the clips of manifests ahead of a run. Entries that exist are skipped, so an "
        "interrupted build goes on where it stopped.",
        epilog="A run finds the entries if backbone, dtype, kind of device, --max-pixels (data.max_pixels) and the "
        "budget (data.budget) are its own. Give the same values here.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--backbone", required=True, help="embedded name, checkpoint directory or hub id")
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="manifests, .parquet or .jsonl")
    parser.add_argument("--dir", type=Path, required=True, help="the cache's directory (data.cache_dir)")
    parser.add_argument("--root", type=Path, help="what media paths are relative to (default: each manifest's folder)")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes; 0 decodes in the main process")
    frames = parser.add_mutually_exclusive_group()
    frames.add_argument("--num-frames", type=int, default=8, help="frames per video (budget.num_frames)")
    frames.add_argument("--fps", type=float, help="frames per second instead (budget.fps)")
    parser.add_argument("--max-frames", type=int, default=64, help="upper limit with --fps (budget.max_frames)")
    parser.add_argument("--max-pixels", type=int, help="pixels per frame for the backbone (default: its own)")
    parser.add_argument("--decode-pixels", type=int, help="pixels per decoded frame (budget.max_pixels)")
    parser.add_argument("--max-seconds", type=float, default=30.0, help="media after this time is not decoded")
    parser.add_argument(
        "--decode", choices=("process", "inline"), default="process", help="process: a file may end it, not the command"
    )
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="fp32", help="floating type of the towers")
    parser.add_argument("--device", default="cpu", help="where the towers run: cpu, cuda, cuda:1")
    parser.add_argument("--max-gb", type=float, default=50.0, help="bound of the cache (data.cache_max_gb)")
    parsed = parser.parse_args(arguments)
    if parsed.workers < 0:
        parser.error(f"--workers must be at least 0, got {parsed.workers}")
    return parsed


def main(arguments: Sequence[str] | None = None) -> BuildReport:
    """Runs the command."""
    options = parse_arguments(arguments)
    try:
        return run(options)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on from here") from None


def run(options: argparse.Namespace) -> BuildReport:
    """Builds the entries with a progress bar and prints what was done."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from mosear.backbones import load_backbone
    from mosear.data.cache.build import build_cache
    from mosear.data.cache.store import FeatureCache
    from mosear.data.decode_process import Decoding
    from mosear.data.manifest import load_manifest
    from mosear.data.media import MediaBudget

    limits = {} if options.decode_pixels is None else {"max_pixels": options.decode_pixels}
    budget = MediaBudget(
        num_frames=None if options.fps is not None else options.num_frames,
        fps=options.fps,
        max_frames=options.max_frames,
        max_seconds=options.max_seconds,
        **limits,
    )
    cache = FeatureCache(options.dir, max_gb=options.max_gb)
    manifests = [load_manifest(path, root=options.root) for path in options.manifest]
    backbone = load_backbone(options.backbone, dtype=options.dtype, device=options.device)
    console = Console()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        bar = progress.add_task(f"Filling {options.dir}", total=sum(len(manifest) for manifest in manifests))
        report = build_cache(
            backbone,
            manifests,
            cache,
            budget,
            max_pixels=options.max_pixels,
            workers=options.workers,
            decode=Decoding(mode=options.decode),
            advance=lambda: progress.advance(bar),
        )
    console.print(summary(report, cache), soft_wrap=True, markup=False, highlight=False)
    return report


def summary(report: BuildReport, cache: FeatureCache) -> str:
    """The closing lines: counts, sizes, and every way in which the cache is not what was asked for."""
    entries = len(report.entry_bytes)
    per_clip = report.total_bytes / entries if entries else 0.0
    lines = [
        f"{report.new} new, {report.present} present, {report.text_only} without media, {len(report.bad)} bad",
        f"{report.total_bytes:,} bytes in {entries} entries, {per_clip:,.0f} bytes per entry; "
        f"the cache holds {cache.size():,} of {cache.max_bytes:,} bytes",
    ]
    if report.evicted:
        lines.append(
            f"The bound was reached and {report.evicted} entries were removed again. These clips alone need "
            f"{report.total_bytes / 2**30:.3g} GB: raise --max-gb and data.cache_max_gb, and run this again."
        )
    if report.bad:
        causes = Counter(bad.cause for bad in report.bad).most_common()
        lines.append(f"Bad media ({', '.join(f'{count} {cause}' for cause, count in causes)}):")
        lines += [f"  {bad.clip.id}: {bad.message}" for bad in report.bad[:BAD_CLIPS_SHOWN]]
        if len(report.bad) > BAD_CLIPS_SHOWN:
            lines.append(f"  ... and {len(report.bad) - BAD_CLIPS_SHOWN} more")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
