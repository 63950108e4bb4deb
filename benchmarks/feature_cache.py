"""What the feature cache saves and what it takes: ``python -m benchmarks.feature_cache`` (minutes on a CPU).

``time``: an epoch of training (``Trainer.fit``, the embedded backbone with MoSE, loader workers) without the cache,
with an empty one that it fills (cold) and with a full one (warm), in rotating order. With ``--clock cpu`` the loader
workers' time counts as well: what an epoch takes on machines where decoding, encoding and training share the cores.

``sizes``: bytes of a clip's entry, and of an hour of video, for the published checkpoints: by the processors' own
arithmetic from their published sizes, without weights. Budgets are those of ``data=manifest``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peft
import torch
import transformers

from benchmarks.assembled import CACHES, add_run_options, assembled, random_checkpoint
from benchmarks.side_by_side import add_options, check_options, medians, quartiles, ratios, run_cases, timed
from mosear.backbones.families import family_of
from mosear.backbones.published import published_sizes
from mosear.data.cache import FeatureCache
from mosear.data.lengths import audio_tokens, video_tokens
from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.media import MediaBudget, MediaInfo
from mosear.data.synthetic.corpus import ensure_corpus
from mosear.methods.omni_system import OmniSystem
from mosear.planning.clip import processor_of
from mosear.runtime.assemble import Assembly

PARTS = ("time", "sizes")


# Time


def training(args: argparse.Namespace, train: Path, run_dir: Path, cache: Path | None) -> tuple[Assembly, OmniSystem]:
    """What ``train.py`` would run, for one epoch."""
    options = [
        f"+experiment={args.experiment}", "logger=none", "data.prepare=null", f"data.train={train}",
        f"data.root={args.data_dir.resolve() / 'synthetic'}", f"data.batch_size={args.batch}", "trainer.max_epochs=1",
        f"data.cache_dir={cache or 'null'}", "trainer.limit_val_batches=0",
    ]  # fmt: skip
    return assembled("train", args, run_dir, options, args.checkpoint)


def chosen_clips(args: argparse.Namespace, directory: Path) -> Path:
    """A manifest of so many training clips: a limit of the trainer's would let workers read ahead of it."""
    corpus = args.data_dir / "synthetic"
    if not args.prepared:
        ensure_corpus(corpus)
    clips = list(load_manifest(corpus / "train_natural.parquet"))
    if len(clips) < args.clips:
        raise SystemExit(f"--clips={args.clips}: there are {len(clips)} training clips.")
    return write_manifest(clips[: args.clips], directory / "train.parquet")


def epochs(args: argparse.Namespace) -> dict[str, Any]:
    """Time of an epoch by what the cache holds."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        train, full = chosen_clips(args, directory), directory / "full"
        ready: dict[str, tuple[Assembly, OmniSystem]] = {}

        def prepare(number: int) -> None:
            for way, cache in {"off": None, "cold": directory / f"cold{number}", "warm": full}.items():
                ready[way] = training(args, train, directory / "run", cache)

        def fit(way: str) -> None:
            parts, system = ready.pop(way)
            parts.trainer.fit(system, datamodule=system.data)

        prepare(-1)
        fit("warm")  # fills its cache; the warm-up of everything else, too
        seconds = timed(CACHES, fit, args.repeats, args, before_round=prepare)
        entries = FeatureCache(full)
        size = entries.size()
    relative = ratios(seconds, "off")
    return {
        "clips": args.clips,
        "n": len(seconds["off"]),
        "seconds": medians(seconds),
        "ratio": medians(relative),
        "quartiles": quartiles(relative),
        "entry_bytes": size / args.clips,
    }


def epochs_row(found: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [f"{found['clips']:,}", str(found["n"])]
    for way in CACHES[1:]:
        low, high = found["quartiles"][way]
        cells.append(f"{found['ratio'][way]:.2f} ({low:.2f}-{high:.2f})")
    cells += [f"{1000 * found['seconds'][way] / found['clips']:.1f} ms" for way in CACHES]
    return f"| {' | '.join(cells)} | {found['entry_bytes'] / 1e3:.0f} kB |"


EPOCHS_HEAD = (
    "| clips | n | epoch, cold / off | epoch, warm / off | a clip, off | cold | warm | entry |\n"
    "|---:|---:|---:|---:|---:|---:|---:|---:|"
)


# Sizes

CHECKPOINTS = {
    "3B": "Qwen/Qwen2.5-Omni-3B",
    "7B": "Qwen/Qwen2.5-Omni-7B",
    "30B-A3B": "Qwen/Qwen3-Omni-30B-A3B-Instruct",
}
PIXELS = 100_352
"""``data.max_pixels`` and ``data.budget.max_pixels`` of ``conf/data/manifest.yaml``."""
BUDGET = MediaBudget(num_frames=8, max_pixels=PIXELS)
BUDGETS = {
    "8 frames a clip": BUDGET,
    "1 frame/s": replace(BUDGET, num_frames=None, fps=1.0),
    "2 frames/s": replace(BUDGET, num_frames=None, fps=2.0),
    "sound alone": None,
}
FRAME = (1280, 720)
HEADER, PER_TENSOR = 190, 95
"""Bytes of an entry beside its features."""
BOUND = 50 * 2**30
"""``data.cache_max_gb`` of ``conf/data/manifest.yaml``."""


@dataclass(frozen=True)
class Entry:
    """Sizes of a clip's entry: tokens, and bytes in all."""

    visual: int
    audio: int
    size: int


def entry_of(
    config: Any, processor: Any, info: MediaInfo, budget: MediaBudget, max_pixels: int | None, dtype: torch.dtype
) -> Entry:
    """What the store writes for a clip: its tokens' features, those of pictures once more per DeepStack level."""
    seconds = min(info.duration or 0.0, budget.max_seconds)
    visual = video_tokens(info, processor, budget, max_pixels) if info.has_video else 0
    audio = audio_tokens(seconds, processor) if info.has_audio else 0
    levels = 1 + len(getattr(config.vision_config, "deepstack_visual_indexes", None) or ())
    tensors = (levels + 1 if info.has_video else 0) + (1 if info.has_audio else 0)
    features = (levels * visual + audio) * config.text_config.hidden_size * dtype.itemsize
    return Entry(visual, audio, features + HEADER + PER_TENSOR * tensors)


def sizes(case: tuple[str, str], seconds: Sequence[float], dtype: torch.dtype) -> dict[str, Any]:
    """Entries of a published checkpoint under a budget."""
    model, name = case
    raw = published_sizes(CHECKPOINTS[model])
    assert raw is not None
    family = family_of(raw["model_type"])
    config = family.model_class().config_class(**{key: value for key, value in raw.items() if key != "dtype"})
    processor = processor_of(CHECKPOINTS[model], family, config)
    budget = BUDGETS[name]
    entries = {}
    for length in seconds:
        info = MediaInfo(budget is not None, True, length, *FRAME, None)
        entries[f"{length:g}"] = vars(entry_of(config, processor, info, budget or BUDGET, PIXELS, dtype))
    return {"model": model, "budget": name, "dtype": str(dtype), "entries": entries}


def sizes_row(found: dict[str, Any]) -> str:
    """One line of the table."""
    hours = [3600 / float(seconds) * entry["size"] for seconds, entry in found["entries"].items()]
    entry = next(iter(found["entries"].values()))
    cells = [found["model"], found["budget"], f"{entry['visual']:,} + {entry['audio']:,}"]
    cells += [f"{entry['size'] / 1e6:.1f} MB", f"{hours[0] / 1e9:.2f} GB", f"{BOUND / hours[0]:,.0f} h"]
    cells += [f"{hour / 1e9:.2f} GB" for hour in hours[1:]]
    return f"| {' | '.join(cells)} |"


def sizes_head(seconds: Sequence[float]) -> str:
    """All of the first length of clips, and an hour in each other."""
    titles = ["checkpoint", "budget", f"tokens of {seconds[0]:g} s: picture + sound", "entry", "an hour", "in 50 GiB"]
    titles += [f"an hour in clips of {length:g} s" for length in seconds[1:]]
    return f"| {' | '.join(titles)} |\n|---|---|{'---:|' * (len(titles) - 2)}"


# The command


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["time"])
    parser.add_argument("--experiment", default="mosear_plain", help="as in conf/experiment")
    add_run_options(parser, workers="processes that decode or read the cache")
    parser.add_argument("--clips", type=int, default=320, help="of an epoch")
    parser.add_argument("--batch", type=int, default=32, help="clips")
    parser.add_argument("--seconds", nargs="+", type=float, default=[30.0, 5.0], help="lengths of clips, for the sizes")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="of the backbone, for the sizes")
    add_options(parser, rounds="epochs of each way")
    args = parser.parse_args(argv)
    check_options(parser, args)
    if min(args.clips, args.batch) < 1 or args.workers < 0 or min(args.seconds) <= 0:
        parser.error("--clips, --batch and --seconds must be positive, --workers at least 0.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    args = parsed(argv)
    libraries = (torch, transformers, peft)
    if "sizes" in args.parts:
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[args.dtype]
        cases = [(model, name) for model in CHECKPOINTS for name in BUDGETS]
        head = sizes_head(args.seconds)
        run_cases(args, cases, lambda case: sizes(case, args.seconds, dtype), sizes_row, head, libraries)
    if "time" in args.parts:
        with random_checkpoint(args.size) as args.checkpoint:
            run_cases(args, [args], epochs, epochs_row, EPOCHS_HEAD, libraries)


if __name__ == "__main__":
    main()
