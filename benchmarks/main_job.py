"""What ``+experiment=mosear`` costs beside another commit: ``python -m benchmarks.main_job --against COMMIT``.

Both check-outs run the same command in the present environment, one after the other, each with a data directory of its
own, so that rendering and encoding count. *CPU* is the time of all processes together, which other jobs on the machine
hardly change; *wall* is only meaningful on an idle machine. Phases are read from ``run.log``.

    python -m benchmarks.main_job --against ef7e00a --rounds 1 -- data.prepare.test_clips=300
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.options import ROOT

LINE = re.compile(r"^\[(?P<time>[-0-9: ]+,\d+)\]\[[^]]+\]\[\w+\] - (?P<text>.*)$")
PHASES = {"Loading backbone": "start and rendering", "Testing (zero_shot)": "loading", "Tuning": "test, zero-shot"}
"""A line of the log, and what the time before it went to."""


def check_out(commit: str, directory: Path) -> Path:
    """The tree of a commit, without touching the working tree."""
    target = directory / "tree"
    subprocess.run(["git", "worktree", "add", "--detach", "--force", str(target), commit], cwd=ROOT, check=True)
    return target


def phases(log: Path, started: datetime, ended: datetime) -> dict[str, float]:
    """Seconds by phase."""
    found: dict[str, float] = {}
    before, name = started, "start"
    for line in log.read_text(encoding="utf-8").splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        for begin, phase in PHASES.items():
            if match["text"].startswith(begin):
                moment = datetime.strptime(match["time"], "%Y-%m-%d %H:%M:%S,%f")
                found[phase] = found.get(phase, 0.0) + (moment - before).total_seconds()
                before, name = moment, begin
    found["tuning, test, report" if name == "Tuning" else "rest"] = (ended - before).total_seconds()
    return found


def run(tree: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """One run of the main job in a check-out."""
    with TemporaryDirectory() as temporary:
        directory = Path(temporary)
        command = [
            sys.executable, "train.py", "+experiment=mosear", f"data_dir={directory / 'data'}",
            f"hydra.run.dir={directory / 'run'}", *overrides,
        ]  # fmt: skip
        started, clock = datetime.now(), time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - clock
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed in {tree}:\n{(directory / 'log').read_text()[-3000:]}")
        metrics = json.loads((directory / "run" / "metrics.json").read_text(encoding="utf-8"))
        return {
            "cpu": usage.ru_utime + usage.ru_stime,
            "wall": wall,
            "steps": metrics["run"]["steps"],
            "conflict_mean": metrics["conflict_mean"],
            "phases": phases(directory / "run" / "run.log", started, datetime.now()),
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="commit, tag or branch; none: this tree alone")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write everything here")
    parser.add_argument("override", nargs="*", help="key=value for both (after --)")
    args = parser.parse_args(argv)
    with TemporaryDirectory() as temporary:
        trees = {"this": ROOT}
        if args.against:
            trees = {args.against: check_out(args.against, Path(temporary)), **trees}
        try:
            found = [{name: run(tree, args.override) for name, tree in trees.items()} for _ in range(args.rounds)]
        finally:
            if args.against:
                tree = str(trees[args.against])
                subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)
    print("| round | tree | CPU s | wall s | steps | conflict mean | phases (wall s) |")
    print("|---|---|---:|---:|---:|---:|---|")
    for number, own in enumerate(found):
        for name, result in own.items():
            parts = ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in result["phases"].items())
            print(
                f"| {number} | {name} | {result['cpu']:.0f} | {result['wall']:.0f} | {result['steps']} "
                f"| {100 * result['conflict_mean']:.1f} | {parts} |"
            )
        if args.against:
            ratio = own["this"]["cpu"] / own[args.against]["cpu"]
            print(f"CPU, this / {args.against}: {ratio:.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
