"""Memory of a long training: ``python -m benchmarks.soak --hours 2 --data-dir data``.

Trains ``+experiment=mosear`` without end, validates after each epoch, writes checkpoints, and reads every few seconds
the proportional memory (PSS) of the process and of its loader workers. After the given hours the training is asked to
stop (SIGTERM), which also shows that it saves and leaves with the code for "start again". The samples are appended to
``memory.csv`` of the run directory; ``--report DIR`` prints the table of a soak that has ended, and the same command
with ``--run-dir DIR`` goes on with one that was killed.

*Growth* is the slope of a straight line through the samples after the first tenth; its interval is that of a block
bootstrap (20 blocks).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from benchmarks.options import ROOT, add_corpus_options

MEBIBYTE = 2**20
COLUMNS = ("hours", "trainer_mib", "all_mib", "processes", "open_files", "threads", "cpu_seconds")


def sample(trainer: psutil.Process, hours: float) -> dict[str, float]:
    """Memory, open files and threads of the trainer and its children."""
    family = [trainer, *trainer.children(recursive=True)]
    memory = []
    for process in family:
        try:
            memory.append(process.memory_full_info().pss / MEBIBYTE)
        except psutil.NoSuchProcess:
            continue
    times = trainer.cpu_times()
    return {
        "hours": hours, "trainer_mib": memory[0], "all_mib": sum(memory), "processes": len(memory),
        "open_files": trainer.num_fds(), "threads": trainer.num_threads(),
        "cpu_seconds": times.user + times.system + times.children_user + times.children_system,
    }  # fmt: skip


def start(args: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The training, in the run directory, from its newest checkpoint if it has one."""
    command = [
        sys.executable, "train.py", "+experiment=mosear", "seed=0", f"data_dir={args.data_dir.resolve()}",
        f"hydra.run.dir={args.run_dir.resolve()}", "resume=auto", "trainer.max_epochs=100000",
        "tuning.schedule=constant", "zero_shot=false", "callbacks.progress=null", "+trainer.enable_progress_bar=false",
        *(["data.prepare=null"] if args.prepared else []), *args.override,
    ]  # fmt: skip
    with (args.run_dir / "soak.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def measure(args: argparse.Namespace) -> int:
    """Train, sample, stop; the exit code of the training."""
    args.run_dir.mkdir(parents=True, exist_ok=True)
    samples = args.run_dir / "memory.csv"
    before = read(samples)[-1]["hours"] if samples.exists() else 0.0
    trainer = start(args)
    process, since = psutil.Process(trainer.pid), time.monotonic()
    with samples.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if not before:
            writer.writeheader()
        while trainer.poll() is None:
            hours = before + (time.monotonic() - since) / 3600
            if hours >= args.hours:
                break
            writer.writerow(sample(process, hours))
            stream.flush()
            time.sleep(args.every)
    trainer.send_signal(signal.SIGTERM)
    return trainer.wait()


def read(samples: Path) -> list[dict[str, float]]:
    """The rows of ``memory.csv``."""
    with samples.open(newline="", encoding="utf-8") as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def slope(hours: np.ndarray, values: np.ndarray, blocks: int = 20, draws: int = 1000) -> tuple[float, float, float]:
    """Growth per hour with a 95 % interval."""
    rng = np.random.default_rng(0)
    parts = np.array_split(np.arange(len(hours)), min(blocks, len(hours)))
    drawn = []
    for _ in range(draws):
        rows = np.concatenate([parts[index] for index in rng.integers(0, len(parts), len(parts))])
        drawn.append(np.polyfit(hours[rows], values[rows], 1)[0])
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(np.polyfit(hours, values, 1)[0]), float(low), float(high)


def steps(run_dir: Path) -> int:
    """Steps of the newest complete checkpoint."""
    found = [int(path.parent.name.removeprefix("step-")) for path in run_dir.glob("checkpoints/step-*/COMPLETE")]
    return max(found, default=0)


def report(run_dir: Path) -> dict[str, object]:
    """Figures of a soak, printed as a table."""
    rows = read(run_dir / "memory.csv")
    hours = np.array([row["hours"] for row in rows])
    late = hours >= hours[-1] / 10
    found: dict[str, object] = {"hours": round(float(hours[-1]), 2), "samples": len(rows), "steps": steps(run_dir)}
    print(f"{hours[-1]:.2f} hours, {len(rows)} samples, {found['steps']} steps\n")
    print("| | after a tenth | last | growth per hour |\n|---|---:|---:|---:|")
    for column in ("trainer_mib", "all_mib", "open_files", "threads"):
        values = np.array([row[column] for row in rows])
        growth = slope(hours[late], values[late])
        first, last = values[late][:20].mean(), values[-20:].mean()
        found[column] = {"first": first, "last": last, "growth_per_hour": growth}
        print(f"| {column} | {first:.1f} | {last:.1f} | {growth[0]:.2f} ({growth[1]:.2f} to {growth[2]:.2f}) |")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--run-dir", type=Path, default=Path("outputs/soak"))
    parser.add_argument("--report", type=Path, help="print the table of this run directory, train nothing")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("override", nargs="*", help="key=value for the training")
    add_corpus_options(parser)
    args = parser.parse_args(argv)
    code = 0
    if args.report is None:
        code = measure(args)
    found = report(args.report or args.run_dir)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if code not in (0, os.EX_TEMPFAIL):
        raise SystemExit(f"The training ended with exit code {code}; see {args.run_dir / 'soak.log'}.")


if __name__ == "__main__":
    main()
