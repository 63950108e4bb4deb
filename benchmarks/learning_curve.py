"""Accuracy on validation clips against epochs and learning rate: ``python -m benchmarks.learning_curve``.

One training of ``+experiment=mosear`` per setting, backbone and seed, then a test on the **validation** clips,
conflicts included, which were rendered for this (``data.prepare.val_clips``): recipes are chosen with these, never with
test clips. A finished run is not repeated. *Conflict* is the mean of video-aligned and audio-aligned, *gap* their
difference.

    python -m benchmarks.learning_curve --settings 24:2e-3 6:4e-3 --backbones tiny_omni tiny_omni_beta4 --seeds 0 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.options import ROOT

SUBSETS = ("consistent", "video_aligned", "audio_aligned", "contextual")
SETTINGS = ("24:2e-3", "6:2e-3", "3:4e-3", "4:4e-3", "6:4e-3", "4:8e-3", "6:8e-3")


def accuracies(setting: str, backbone: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Per subset of the validation clips, and the seconds of training."""
    epochs, rate = setting.split(":")
    target = args.out / backbone / f"epochs{epochs}-rate{rate}-seed{seed}"
    metrics = target / "metrics.json"
    if not metrics.is_file():
        data_dir = args.data_dir.resolve()
        command = [
            sys.executable, "train.py", "+experiment=mosear", f"backbone={backbone}", f"seed={seed}",
            f"trainer.max_epochs={epochs}", f"tuning.learning_rate={rate}", f"hydra.run.dir={target.resolve()}",
            f"data_dir={data_dir}", f"data.test={data_dir}/synthetic/val.parquet", "zero_shot=false",
            f"data.prepare.val_clips={args.val_clips}", "data.prepare.test_clips=1", "data.prepare.missing_clips=1",
            "answering.readings=false", "report.examples=0", "trainer.limit_val_batches=0", "logger=none",
            "callbacks.progress=null", "+trainer.enable_progress_bar=false", *args.override,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env={"OMP_NUM_THREADS": "1", **os.environ}, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.decode()[-3000:]}")
    found = json.loads(metrics.read_text(encoding="utf-8"))
    subsets = found["subsets"]
    return {name: 100 * subsets[name]["accuracy"] for name in SUBSETS}


def row(name: str, runs: Sequence[dict[str, float]]) -> str:
    """Means over seeds and backbones, and the range of the conflict mean."""
    conflict = [(own["video_aligned"] + own["audio_aligned"]) / 2 for own in runs]
    gap = [own["video_aligned"] - own["audio_aligned"] for own in runs]
    cells = [mean(own[subset] for own in runs) for subset in SUBSETS]
    numbers = " | ".join(f"{value:.1f}" for value in (*cells, mean(conflict), mean(gap)))
    return f"| {name} | {len(runs)} | {numbers} | {min(conflict):.1f} - {max(conflict):.1f} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), help="epochs:rate")
    parser.add_argument("--backbones", nargs="+", default=["tiny_omni", "tiny_omni_beta4"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--val-clips", type=int, default=1200)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("outputs/learning_curve"))
    parser.add_argument("override", nargs="*", help="key=value for every training (after --)")
    args = parser.parse_args(argv)
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    print(f"| epochs:rate, backbone | runs | {' | '.join(SUBSETS)} | conflict | gap | conflict, range |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for seed in args.seeds:
        for setting in args.settings:
            for backbone in args.backbones:
                found[setting, backbone].append(accuracies(setting, backbone, seed, args))
                print(row(f"{setting}, {backbone}, seed {seed}", found[setting, backbone][-1:]), flush=True)
    print()
    for setting in args.settings:
        print(row(f"{setting}, all", [own for backbone in args.backbones for own in found[setting, backbone]]))


if __name__ == "__main__":
    main()
