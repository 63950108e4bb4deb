"""Damaged media files against the decoder: ``python -m benchmarks.fuzz_media --files 1000 --seed 0 --json fuzz.json``.

Files are made as in ``benchmarks.damaged_files`` and read as ``predict`` reads a file (header, then picture and sound;
of files with a picture also the sound alone), in a process that is watched. Every file has one outcome:

decoded     arrays came back, of the promised sizes and with finite values
refused     a MediaError said what is wrong
timed out   it took more CPU time than ``--seconds``, or gave no answer for ten times as long
died        the process ended
memory      the process's peak grew over ``--memory-mb``
exception   anything else was raised

A file is named by container, seed and index: ``--show mp4:0:17`` writes it. With ``--json``, containers that the file
already holds for the same options are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.damaged_files import RECIPES, damaged
from benchmarks.options import ROOT
from mosear.data.media import Media, MediaBudget, MediaError, decode, probe

OUTCOMES = ("decoded", "refused", "timed out", "died", "memory", "exception")
FAULTS = OUTCOMES[2:]
BUDGET = MediaBudget(num_frames=8, max_seconds=30.0)
START_SECONDS = 120
FAULTS_SHOWN = 20


# The watched process


def serve() -> None:
    """Answers lines ``container seed index``, each by one line of JSON."""
    with tempfile.TemporaryDirectory() as directory:
        for line in sys.stdin:
            container, seed, index = line.split()
            content, done = damaged(container, int(seed), int(index))
            path = Path(directory) / f"damaged.{container}"
            path.write_bytes(content)
            forget_peak()
            start = time.process_time()
            outcome, detail = outcome_of(path)
            seconds = time.process_time() - start
            answer = {"outcome": outcome, "detail": detail, "done": done, "seconds": seconds, "mb": peak_mb()}
            print(json.dumps(answer), flush=True)


def outcome_of(path: Path) -> tuple[str, str]:
    """What the product makes of a file."""
    outcome, detail = "refused", ""
    try:
        info = probe(path)
        ways = [(path, "video" if info.has_audio else None)] if info.has_video else [(None, path)]
        ways += [(None, path)] if info.has_video and info.has_audio else []
        for video, audio in ways:
            try:
                check(decode(video, audio, BUDGET))
                outcome = "decoded"
            except MediaError as error:
                detail = error.cause
                str(error)
    except MediaError as error:
        return "refused", error.cause
    except MemoryError as error:
        return "memory", repr(error)
    except Exception as error:
        return "exception", f"{type(error).__name__}: {error}"
    return outcome, detail


def check(media: Media) -> None:
    """Raise if a decoded clip is none."""
    if media.frames is not None:
        count, height, width, colours = media.frames.shape
        assert (count, colours, media.frames.dtype) == (BUDGET.num_frames, 3, np.uint8), media.frames.shape
        assert 0 < height * width <= BUDGET.max_pixels, media.frames.shape
        assert 0 < media.fps < np.inf, media.fps
    if media.audio is not None:
        assert len(media.audio) <= BUDGET.max_seconds * BUDGET.audio_rate, media.audio.shape
        assert np.isfinite(media.audio).all(), "a sample is not finite"
    assert 0 <= media.duration <= BUDGET.max_seconds, media.duration


def forget_peak() -> None:
    """The peak of memory begins anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Most resident memory since :func:`forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


# The watching one


class Watched:
    """A process that decodes damaged files, started again whenever it ends."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, container: str, seed: int, index: int) -> dict[str, Any]:
        """The outcome of one file."""
        fresh = self._process is None
        process, start = self._process or self._start(), time.perf_counter()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{container} {seed} {index}\n".encode())
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(10 * self.seconds + (START_SECONDS if fresh else 0))
        line = process.stdout.readline() if ready else b""
        if line.endswith(b"\n"):
            return json.loads(line)
        if not ready:
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        self.close()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        outcome, detail = ("died", name) if ready else ("timed out", "")
        return {"outcome": outcome, "detail": detail, "done": "", "seconds": time.perf_counter() - start, "mb": 0.0}

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.fuzz_media", "--serve"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def fuzz(watched: Watched, container: str, args: argparse.Namespace, advance: Any) -> dict[str, Any]:
    """Counts of outcomes and causes, and every fault with its seed."""
    outcomes: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    faults, slowest, largest = [], 0.0, 0.0
    for index in range(args.files):
        found = watched(container, args.seed, index)
        if found["seconds"] > args.seconds:
            found |= {"outcome": "timed out", "detail": f"{found['seconds']:.1f} s, then {found['outcome']}"}
        if found["mb"] > args.memory_mb:
            found |= {"outcome": "memory", "detail": f"{found['mb']:.0f} MB, then {found['outcome']}"}
        outcomes[found["outcome"]] += 1
        causes.update([found["detail"]] if found["outcome"] == "refused" else [])
        slowest, largest = max(slowest, found["seconds"]), max(largest, found["mb"])
        if found["outcome"] in FAULTS:
            faults.append({"file": f"{container}:{args.seed}:{index}", **found})
        advance()
    return {
        "container": container,
        **{name: outcomes[name] for name in OUTCOMES},
        "causes": dict(causes.most_common()),
        "slowest_seconds": round(slowest, 2),
        "largest_mb": round(largest),
        "faults": faults,
    }


HEAD = f"| container | {' | '.join(OUTCOMES)} | slowest | peak memory |\n|---|{'---:|' * (len(OUTCOMES) + 2)}"


def row(found: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [found["container"], *(f"{found[name]:,}" for name in OUTCOMES)]
    cells += [f"{found['slowest_seconds']:.1f} s", f"{found['largest_mb']} MB"]
    return f"| {' | '.join(cells)} |"


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every container in turn; what is known is written after each."""
    from rich.progress import MofNCompleteColumn, Progress

    options = {"files": args.files, "seed": args.seed, "seconds": args.seconds, "memory_mb": args.memory_mb}
    versions = {"python": platform.python_version(), "av": av.__version__}
    stored = json.loads(args.json.read_text("utf-8")) if args.json and args.json.is_file() else {}
    same = stored.get("options") == options and stored.get("versions") == versions
    known = {found["container"]: found for found in stored.get("containers", [])} if same else {}
    watched, results = Watched(args.seconds), []
    try:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
            for container in args.containers:
                bar = progress.add_task(container, total=args.files, completed=args.files if container in known else 0)
                found = known.get(container) or fuzz(watched, container, args, lambda bar=bar: progress.advance(bar))
                results.append(found)
                if args.json is not None:
                    text = json.dumps({"options": options, "versions": versions, "containers": results}, indent=1)
                    args.json.write_text(text, encoding="utf-8")
    finally:
        watched.close()
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit status is 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000, help="of each container")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--containers", type=lambda text: text.split(","), default=list(RECIPES), metavar="A,B,...")
    parser.add_argument("--seconds", type=float, default=10.0, help="of CPU time that a file may take")
    parser.add_argument("--memory-mb", type=float, default=1024.0, help="the process may have at its peak")
    parser.add_argument("--json", type=Path, help="write everything that was found here")
    parser.add_argument("--show", metavar="CONTAINER:SEED:INDEX", help="write this file to stdout, and stop")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if unknown := [name for name in args.containers if name not in RECIPES]:
        parser.error(f"--containers knows {', '.join(RECIPES)}; got {', '.join(unknown)}.")
    if args.files < 1 or args.seed < 0 or min(args.seconds, args.memory_mb) <= 0:
        parser.error("--files, --seconds and --memory-mb must be positive, --seed at least 0.")
    if args.serve:
        serve()
        return 0
    if args.show:
        container, seed, index = args.show.split(":")
        content, done = damaged(container, int(seed), int(index))
        os.write(sys.stdout.fileno(), content)
        print(done, file=sys.stderr)
        return 0
    results = run(args)
    print("\n".join([HEAD, *map(row, results)]))
    faults = [fault for found in results for fault in found["faults"]]
    for fault in faults[:FAULTS_SHOWN]:
        print(f"{fault['file']}: {fault['outcome']} {fault['detail']} ({fault['done']})")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
