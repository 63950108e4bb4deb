"""Decoding in a process of its own beside decoding here: ``python -m benchmarks.decode_process``.

Clips of several sizes, moving stripes with a tone, are decoded in both ways in turns; arrays are compared first. Times
are CPU time of both processes together, so that other jobs on the machine matter little; the start is given apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mosear.data.decode_process import DecodeProcess
from mosear.data.media import MediaBudget, decode

CLIPS = {"112x112, 2 s": (112, 112, 2), "640x360, 5 s": (640, 360, 5), "1280x720, 5 s": (1280, 720, 5)}
BUDGET = MediaBudget(num_frames=8)


def write(path: Path, width: int, height: int, seconds: int) -> None:
    """H.264 and AAC in mp4."""
    stripes = np.add.outer(3 * np.arange(height), 5 * np.arange(width))
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "threads": "1"})
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=44_100, layout="stereo")
        for index in range(25 * seconds):
            image = np.repeat(((stripes + 7 * index) % 256).astype(np.uint8)[..., None], 3, axis=2)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100 * seconds) / 44_100)).astype(np.float32)
        for start in range(0, len(tone), 1024):
            piece = np.ascontiguousarray(np.repeat(tone[None, start : start + 1024], 2, axis=0))
            heard = av.AudioFrame.from_ndarray(piece, "fltp", "stereo")
            heard.sample_rate, heard.time_base, heard.pts = 44_100, Fraction(1, 44_100), start
            container.mux(sound.encode(heard))
        container.mux(sound.encode())


def cpu_seconds(pid: int | None) -> float:
    """Of this process and, on Linux, of another one that lives."""
    own = time.process_time()
    if pid is None:
        return own
    return own + time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) names a process's clock


def taken(call: Callable[[], object], pid: int | None) -> float:
    """CPU seconds of a call."""
    start = cpu_seconds(pid)
    call()
    return cpu_seconds(pid) - start


def compare(path: Path, rounds: int) -> tuple[float, float, list[float]]:
    """Median milliseconds here and in the process, and the ratio of each round."""
    with DecodeProcess() as decoder:
        ours, theirs = decode(path, "video", BUDGET), decoder.decode(path, "video", BUDGET)
        assert np.array_equal(ours.frames, theirs.frames) and np.array_equal(ours.audio, theirs.audio)
        here, there = [], []
        for _ in range(rounds):
            here.append(taken(lambda: decode(path, "video", BUDGET), None))
            there.append(taken(lambda: decoder.decode(path, "video", BUDGET), decoder.pid))
    ratios = [other / own for own, other in zip(here, there, strict=True)]
    return 1000 * statistics.median(here), 1000 * statistics.median(there), ratios


def start_milliseconds(path: Path) -> float:
    """CPU time of a new process up to its first answer."""
    before = os.times()
    with DecodeProcess() as decoder:
        decoder.probe(path)
    after = os.times()
    return 1000 * (after.children_user + after.children_system - before.children_user - before.children_system)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error(f"--rounds must be 2 or more, got {args.rounds}.")
    print("| clip | n | here | process | process / here |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "clip.mp4"
        for name, (width, height, seconds) in CLIPS.items():
            write(path, width, height, seconds)
            here, there, ratios = compare(path, args.rounds)
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"| {name} | {args.rounds} | {here:.1f} ms | {there:.1f} ms | {middle:.3f} ({low:.3f}-{high:.3f}) |",
                flush=True,
            )
        print(f"\nStart of a process: {statistics.median(start_milliseconds(path) for _ in range(5)):.0f} ms")


if __name__ == "__main__":
    main()
