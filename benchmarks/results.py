"""Reruns the tables of docs/results.md: ``python -m benchmarks.results --seeds 0 1 2 --test-clips 3000``.

Every row is a run of ``train.py`` (its directory stays under ``outputs/results``); a finished run is not repeated, so
an interrupted call goes on where it stopped. The tables are written to ``docs/tables/``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from mosear.evaluation.aggregate import collect, markdown, table

ROOT = Path(__file__).parents[1]
BACKBONES = {"tiny_omni": "tiny-omni", "tiny_omni_balanced": "tiny-omni-balanced"}
DATA = {"synthetic": "natural", "synthetic_voice_dominant": "voice-dominant"}


def run_dir(out: Path, experiment: str, backbone: str, data: str, seed: int, test_clips: int) -> Path:
    """Where one run lives: everything that distinguishes it is in the path."""
    return out / f"{backbone}-{DATA[data]}-n{test_clips}" / f"{experiment}-{seed}"


def train(target: Path, experiment: str, backbone: str, data: str, seed: int, test_clips: int) -> None:
    """One run of train.py, unless it is there already."""
    if (target / "metrics.json").is_file():
        return
    overrides = [
        f"+experiment={experiment}",
        f"backbone={backbone}",
        f"data={data}",
        f"seed={seed}",
        f"data.prepare.test_clips={test_clips}",
        f"zero_shot={str(seed == 0).lower()}",  # the bare backbone has no seed
        f"hydra.run.dir={target}",
    ]
    print(f"== {target.relative_to(ROOT)}", flush=True)
    subprocess.run([sys.executable, "train.py", *overrides], cwd=ROOT, check=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=["lora"])
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--test-clips", type=int, default=3000, help="per test subset")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "results")
    args = parser.parse_args()
    tables = ROOT / "docs" / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for backbone in args.backbones:
        for data in args.data:
            runs = []
            for experiment in args.experiments:
                for seed in args.seeds:
                    runs.append(run_dir(args.out, experiment, backbone, data, seed, args.test_clips))
                    train(runs[-1], experiment, backbone, data, seed, args.test_clips)
            text = markdown(table(collect(runs)))
            (tables / f"{backbone}-{DATA[data]}.md").write_text(text, encoding="utf-8")
            print(text)


if __name__ == "__main__":
    main()
