"""Training throughput of one process and of two: ``python -m benchmarks.processes --data-dir data``.

Short trainings of the embedded backbone with MoSE and conflict mixing through ``train.py``, the same global batch, one
torch thread and no loader workers per process, media from the feature cache; the trainers take turns. Rates are those
that a run writes (``clips_per_second``, all processes together). On one machine with as many cores as processes the
ratio shows what gathering and averaging cost; it says nothing about a network.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.options import ROOT, add_corpus_options

TRAINERS = ("cpu", "ddp", "zero2", "zero3")


def rate(trainer: str, args: argparse.Namespace) -> float:
    """Clips per second of one training."""
    processes = 1 if trainer == "cpu" else args.processes
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    parallel = ["trainer.accelerator=cpu", f"trainer.devices={processes}", "trainer.precision=32-true"]
    with TemporaryDirectory() as run_dir:
        command = [
            sys.executable, *launcher, "train.py", "+experiment=mosear", f"trainer={trainer}",
            *(parallel if processes > 1 else []), f"data.batch_size={args.batch // processes}",
            f"trainer.max_steps={args.steps}", "trainer.limit_val_batches=0", "trainer.limit_test_batches=1",
            f"data_dir={args.data_dir.resolve()}", "data.num_workers=0", "zero_shot=false", "answering.readings=false",
            "report.examples=0", "callbacks.progress=null", "+trainer.enable_progress_bar=false",
            f"hydra.run.dir={run_dir}", *(["data.prepare=null"] if args.prepared else []),
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return json.loads((Path(run_dir) / "metrics.json").read_text(encoding="utf-8"))["run"]["clips_per_second"]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS[1:], default=list(TRAINERS[1:3]))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="clips of a step, over all processes")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    add_corpus_options(parser)
    args = parser.parse_args(argv)
    if args.processes < 2 or args.batch % args.processes or min(args.rounds, args.steps) < 1:
        parser.error("--processes must be 2 or more and divide --batch; --rounds and --steps must be 1 or more.")
    found: dict[str, list[float]] = {trainer: [] for trainer in ("cpu", *args.trainers)}
    for _ in range(args.rounds):
        for trainer, rates in found.items():
            rates.append(rate(trainer, args))
    print("| trainer | processes | rounds | clips/s | x one process |\n|---|---:|---:|---:|---:|")
    for trainer, rates in found.items():
        relative = statistics.median(own / alone for own, alone in zip(rates, found["cpu"], strict=True))
        processes = 1 if trainer == "cpu" else args.processes
        cells = (trainer, processes, len(rates), f"{statistics.median(rates):.1f}", f"{relative:.2f}")
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
