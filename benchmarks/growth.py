"""How a training step grows: ``python -m benchmarks.growth`` (minutes on a CPU).

A step of the embedded backbone with MoSE (forward, loss, backward, clipping, AdamW; media encoded beforehand), and the
encoding of its media apart, while one thing doubles and the rest stays:

* clips: of a batch;
* frames: of each clip, at the same length, so only its picture grows;
* seconds: of each clip, at the same frame rate, so picture and sound grow;
* experts: per group, each of the same rank.

All sizes of one series alternate in rotating order; the first size of a series is the unit of its ratios. *Power* is
p in time ~ size^p, between the two largest sizes; 1 is linear, 0 does not grow. Memory is the peak of live allocations
above weights and batch.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import peft
import torch
import transformers

from benchmarks.side_by_side import add_options, check_options, medians, peak_bytes, run_cases, timed
from benchmarks.training_step import SECONDS, Size, TrainingStep, raw_batch
from mosear.backbones import OmniBackbone, load_backbone
from mosear.data.sample import OmniBatch
from mosear.experts import MoSEConfig

SERIES: dict[str, tuple[int, ...]] = {
    "clips": (4, 8, 16, 32),
    "frames": (4, 8, 16, 32),
    "seconds": (2, 4, 8, 16),
    "experts": (1, 2, 4),
}


def sizes(name: str) -> dict[str, Size]:
    """The steps of a series by their number; a longer clip has as many more frames."""
    found = {str(value): replace(Size(), **{name: value}) for value in SERIES[name]}
    if name == "seconds":
        found = {key: replace(size, frames=Size.frames * size.seconds // SECONDS) for key, size in found.items()}
    return found


def training_step(backbone: OmniBackbone, batch: OmniBatch, experts: int) -> Callable[[], Any]:
    """As ``train.py`` does it, without conflict mixing."""
    own = replace(backbone, model=deepcopy(backbone.model))
    network = peft.get_peft_model(own.model, MoSEConfig(r=4, alpha=8, experts_per_group=experts))
    return TrainingStep(own, network, batch)


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times and memory of a series."""
    backbone = load_backbone("tiny-omni", dtype="fp32", device=args.device)
    steps: dict[str, Callable[[], Any]] = {}
    encodes: dict[str, Callable[[], Any]] = {}
    tokens = {}
    for key, size in sizes(name).items():
        raw = raw_batch(backbone, size).to(args.device)
        encoded = replace(raw, media=backbone.encode(raw.media))
        steps[key] = training_step(backbone, encoded, size.experts)
        encodes[key] = lambda media=raw.media: backbone.encode(media)
        tokens[key] = int(raw.attention_mask.sum(1).max())
    found: dict[str, Any] = {"series": name, "tokens": tokens}
    for what, calls in (("step", steps), ("encode", encodes)):
        run = lambda key, calls=calls: calls[key]()  # noqa: E731
        for key in calls:
            run(key)
        seconds = medians(timed(list(calls), run, args.repeats, args))
        first = next(iter(seconds.values()))
        found[what] = {key: value / first for key, value in seconds.items()}
        found[f"{what}_power"] = power(list(map(int, seconds)), list(seconds.values()))
    peaks = {key: peak_bytes(args.device, lambda way: steps[way](), key) for key in steps}
    first_peak = next(iter(peaks.values()))
    found["memory"] = {key: peak / first_peak for key, peak in peaks.items()}
    found["memory_power"] = power(list(map(int, peaks)), list(peaks.values()))
    return found


def power(at: Sequence[int], values: Sequence[float]) -> float:
    """p of value ~ size^p between the last two."""
    return math.log(values[-1] / values[-2]) / math.log(at[-1] / at[-2])


HEAD = (
    "| what doubles | sizes | tokens of a clip | step time | power | encoding | power | peak memory | power |\n"
    "|---|---|---|---|---:|---|---:|---|---:|"
)


def row(found: dict[str, Any]) -> str:
    """One series."""
    cells = [found["series"], ", ".join(found["tokens"]), ", ".join(map(str, found["tokens"].values()))]
    for what in ("step", "encode", "memory"):
        cells += [", ".join(f"{ratio:.2f}" for ratio in found[what].values()), f"{found[f'{what}_power']:.2f}"]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", nargs="+", choices=list(SERIES), default=list(SERIES))
    add_options(parser, rounds="rounds per series")
    args = parser.parse_args(argv)
    check_options(parser, args)
    run_cases(args, args.series, lambda name: compare(name, args), row, HEAD, (torch, transformers, peft))


if __name__ == "__main__":
    main()
