"""mosear beside ms-swift and LLaMA-Factory: ``python -m benchmarks.peers`` (docs/peers.md).

LoRA tuning of the same random Qwen2.5-Omni checkpoints, on the same clips in the same order, from the same adapter
weights; each system in a process and an environment of its own, by its own trainer. The systems take turns, so that a
slow minute of the machine meets all of them.

``mosear_cached`` reads encoder outputs from the feature cache, which is filled before; ``mosear_mose`` trains MoSE
experts with the same total rank. ``--profile`` and ``--operators`` show instead where mosear's own step spends its
time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.options import ROOT
from benchmarks.peers.checkpoint import AUDIO_WINDOW, SIZES, save_checkpoint
from benchmarks.peers.clips import CLIPS, FRAMES
from benchmarks.peers.data import write_data
from benchmarks.peers.profile_table import profile_table
from benchmarks.peers.report import agreement, table, version_lines
from benchmarks.peers.systems import (
    PEERS,
    SYSTEMS,
    Work,
    build_environment,
    command,
    environment_variables,
    own_python,
)
from mosear.files import written_atomically

BATCH_SIZES = {"tiny": 8, "mid": 4}
STEPS = {"tiny": 12, "mid": 5}
POLL_SECONDS = 0.2
LOG_LINES_SHOWN = 20


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES), help="of the model")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument(
        "--clips", choices=list(CLIPS), default="small", help="112 x 112 of 2 s, or as a camera writes them"
    )
    parser.add_argument("--steps", type=int, help=f"per run (default: {STEPS})")
    parser.add_argument("--warmup", type=int, default=2, help="first steps that are not timed")
    parser.add_argument("--rounds", type=int, default=3, help="runs per system")
    parser.add_argument("--batch-size", type=int, help=f"clips per step (default: {BATCH_SIZES})")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in every system")
    parser.add_argument(
        "--audio-window", type=int, default=AUDIO_WINDOW, help="seconds of the checkpoints' mel window (as published)"
    )
    parser.add_argument("--dir", type=Path, default=Path("data/peers"), help="checkpoints, clips, environments, logs")
    parser.add_argument("--profile", action="store_true", help="profile mosear's step instead, by part")
    parser.add_argument("--operators", action="store_true", help="likewise, by kind of operator")
    parser.add_argument("--json", type=Path, help="also write every run's record here")
    parser.add_argument("--report", type=Path, help="measure nothing: print the tables of a file that --json wrote")
    args = parser.parse_args(arguments)
    if args.warmup < 0 or args.rounds < 1:
        parser.error(f"--warmup={args.warmup} must be at least 0 and --rounds={args.rounds} at least 1.")
    for size in args.sizes:
        if (args.steps or STEPS[size]) <= args.warmup:
            parser.error(f"{args.steps or STEPS[size]} steps leave none after --warmup={args.warmup}.")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    args = parsed(arguments)
    if args.report is not None:
        print_tables(json.loads(args.report.read_text(encoding="utf-8")))
        return
    directory = args.dir.resolve()
    try:
        if args.profile or args.operators:
            print(profile_table({size: profiled(size, args, directory) for size in args.sizes}))
            return
        peers = [system for system in args.systems if system in PEERS]
        for system in [*peers, "mosear"] if peers else []:  # alone it has nothing to be compared with
            build_environment(system, directory / "environments")
        print_tables(compare(args, directory))
    except ValueError as error:
        sys.exit(str(error))


def print_tables(runs: list[dict[str, Any]]) -> None:
    """Speed and memory, losses, versions."""
    print(table(runs), agreement(runs), version_lines(runs), sep="\n\n")


def compare(args: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    """All runs. The systems alternate, and each round begins with another one."""
    runs: list[dict[str, Any]] = []
    for size in args.sizes:
        work = prepare(size, args, directory)
        if "mosear_cached" in args.systems:
            fill_cache(work, args)
        for number in range(args.rounds):
            turn = number % len(args.systems)
            for system in (*args.systems[turn:], *args.systems[:turn]):
                scratch = directory / "runs" / f"{name_of(size, args)}-{system}-{number}"
                facts = {"size": size, "system": system, "round": number, "warmup": args.warmup}
                runs.append({**facts, "batch_size": work.batch_size, **record(system, work, scratch, args, directory)})
                if args.json is not None:  # after each run: a comparison takes long
                    with written_atomically(args.json) as temporary:
                        temporary.write_text(json.dumps(runs), encoding="utf-8")
    return runs


def prepare(size: str, args: argparse.Namespace, directory: Path) -> Work:
    """Checkpoint and clips, made where they are missing."""
    steps = args.steps or STEPS[size]
    batch_size = args.batch_size or BATCH_SIZES[size]
    checkpoint = directory / "checkpoints" / f"{size}-{args.audio_window}"
    if not (checkpoint / "config.json").exists():
        save_checkpoint(checkpoint, SIZES[size], audio_window=args.audio_window)
    clips = CLIPS[args.clips]
    data = directory / "data" / f"{args.clips}-{steps}x{batch_size}"
    write_data(data, (steps + 1) * batch_size, batch_size, clips)
    return Work(checkpoint, data, batch_size, steps, clips)


def name_of(size: str, args: argparse.Namespace) -> str:
    """What the folders of a comparison begin with."""
    return f"{size}-{args.clips}-{args.audio_window}"


def fill_cache(work: Work, args: argparse.Namespace) -> None:
    """Encode the clips with the documented command and the settings of the run."""
    pixels = work.clips.pixels
    options = {
        "--backbone": work.checkpoint, "--manifest": work.data / "mosear.jsonl", "--dir": work.cache,
        "--num-frames": FRAMES, "--max-pixels": pixels, "--decode-pixels": pixels, "--dtype": "fp32", "--workers": 0,
    }  # fmt: skip
    words = [str(word) for option in options.items() for word in option]
    python = own_python(args.dir.resolve() / "environments")
    run_logged([str(python), "-m", "mosear", "cache", *words], "mosear", work, work.data / "cache.log", args)


def record(
    system: str, work: Work, scratch: Path, args: argparse.Namespace, directory: Path, *, callback: str = "Record"
) -> dict[str, Any]:
    """Run one system and read what its recorder wrote."""
    scratch.mkdir(parents=True, exist_ok=True)
    result = scratch / "record.json"
    result.unlink(missing_ok=True)
    print(f"{time.strftime('%H:%M:%S')} {scratch.name}", file=sys.stderr, flush=True)
    words = command(system, work, scratch, directory / "environments", callback=callback)
    tree = run_logged(words, system, work, scratch / "log.txt", args, until=result)
    return {**json.loads(result.read_text(encoding="utf-8")), "tree_mib": tree}


def profiled(size: str, args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Seconds of mosear's steps by part, or by kind of operator."""
    callback = "Operators" if args.operators else "Profile"
    scratch = directory / "runs" / f"{name_of(size, args)}-{callback.lower()}"
    return record("mosear", prepare(size, args, directory), scratch, args, directory, callback=callback)


def run_logged(
    words: Sequence[str], system: str, work: Work, log: Path, args: argparse.Namespace, until: Path | None = None
) -> float:
    """Run a command to its end; its output goes into a file.

    Returns:
        MiB resident in the process and its children at their highest, looked at every ``POLL_SECONDS`` until the file
        ``until`` is there.

    Raises:
        ValueError: if the command failed or did not write ``until``.
    """
    variables = environment_variables(system, work, args.threads)
    highest = 0.0
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(words, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if until is not None and not until.exists():
                highest = max(highest, tree_mib(process.pid))
    if process.returncode or (until is not None and not until.exists()):
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:])
        raise ValueError(f"{system} failed with exit status {process.returncode}; the end of {log}:\n{tail}")
    return highest


def tree_mib(pid: int) -> float:
    """Memory resident in a process and its descendants now."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:  # it has just ended
        return 0.0
    return pages * PAGE_MIB + sum(tree_mib(int(child)) for child in children)


PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
