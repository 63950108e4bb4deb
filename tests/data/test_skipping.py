"""Leaving out frames that nobody asked for changes no frame that somebody did."""

import math
import random
from pathlib import Path

import av
import numpy as np
import pytest

from mosear.data import media as media_module
from mosear.data.media import MediaBudget, decode
from mosear.data.skipping import LOOK_AHEAD, Skipper

# Without scene cuts: in a clip of noise every frame is one, and none would refer to another.
OPTIONS = {"preset": "veryfast", "threads": "1", "sc_threshold": "0"}
X264 = {
    "plain": {},
    "many-b": {"bf": "8", "b-adapt": "0", "b-pyramid": "none"},
    "pyramid": {"bf": "3", "b-adapt": "0", "b-pyramid": "normal"},
    "open-gop": {"bf": "3", "g": "12", "x264-params": "open-gop=1:mbtree=0"},
    "no-b": {"bf": "0"},
}


def write(path: Path, options: dict[str, str], times: list[int], codec: str = "libx264") -> Path:
    """Noise, which is different in every frame; times in 1/25 s."""
    rng = np.random.default_rng(0)
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream(codec, rate=25, options=OPTIONS | options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for time in times:
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class Count:
    """How often files are decoded without skipping."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.whole = 0
        own = media_module._Tracks.decode

        def counted(tracks, thread_type, *, skip=True):
            self.whole += not skip
            return own(tracks, thread_type, skip=skip)

        monkeypatch.setattr(media_module._Tracks, "decode", counted)


def without_skipping(monkeypatch: pytest.MonkeyPatch, path: Path, budget: MediaBudget) -> np.ndarray:
    with monkeypatch.context() as context:
        context.setattr(media_module, "can_skip", lambda container, stream: False)
        frames = decode(path, None, budget).frames
    assert frames is not None
    return frames


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("options", X264.values(), ids=X264)
def test_the_same_frames_to_the_last_bit(monkeypatch, tmp_path, options, suffix) -> None:
    path = write(tmp_path / f"clip.{suffix}", options, list(range(60)))
    count = Count(monkeypatch)
    for budget in (MediaBudget(num_frames=n) for n in (1, 3, 8, 60)):
        frames = decode(path, None, budget).frames
        assert frames is not None and np.array_equal(frames, without_skipping(monkeypatch, path, budget))
    assert not count.whole or suffix != "mp4"


@pytest.mark.parametrize("params", ["bframes=4:b-pyramid=1", "bframes=8:b-adapt=0:b-pyramid=0", "bframes=0"])
def test_hevc_too(monkeypatch, tmp_path, params) -> None:
    path = write(tmp_path / "clip.mp4", {"x265-params": f"log-level=error:{params}"}, list(range(60)), "libx265")
    count = Count(monkeypatch)
    for budget in (MediaBudget(num_frames=n) for n in (1, 3, 8, 60)):
        frames = decode(path, None, budget).frames
        assert frames is not None and np.array_equal(frames, without_skipping(monkeypatch, path, budget))
    assert not count.whole


@pytest.mark.parametrize("seed", range(4))
def test_frames_of_uneven_length(monkeypatch, tmp_path, seed) -> None:
    times = sorted(random.Random(seed).sample(range(200), 50))
    path = write(tmp_path / "clip.mp4", X264["pyramid"], times)
    budget = MediaBudget(num_frames=7)
    frames = decode(path, None, budget).frames
    assert frames is not None and np.array_equal(frames, without_skipping(monkeypatch, path, budget))


def test_most_of_a_long_clip_s_unreferenced_frames_are_left_out(tmp_path) -> None:
    path = write(tmp_path / "clip.mp4", X264["many-b"], list(range(100)))
    seconds, wanted = 4.0, 4
    times = [(i + 0.5) * seconds / wanted for i in range(wanted)]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        skipper = Skipper(stream, ticks=float(stream.time_base), origin=0.0, times=times, tie=1e-3)
        packets = list(skipper.packets(container.demux()))
    with av.open(str(path)) as container:
        assert [packet.pts for packet in packets] == [packet.pts for packet in container.demux()]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        skipper = Skipper(stream, ticks=float(stream.time_base), origin=0.0, times=times, tie=1e-3)
        seen = [frame.pts for packet in skipper.packets(container.demux()) for frame in packet.decode()]
        shown = {math.floor(time * 25 + 1e-6) for time in times}
        assert skipper.expected == {round(index / 25 / float(stream.time_base)) for index in shown}
        assert skipper.expected <= set(seen) and len(seen) < 30


def test_a_frame_that_skipping_lost_is_decoded_after_all(monkeypatch, tmp_path) -> None:
    path = write(tmp_path / "clip.mp4", X264["pyramid"], list(range(60)))
    budget = MediaBudget(num_frames=8)
    expected = without_skipping(monkeypatch, path, budget)
    count = Count(monkeypatch)
    monkeypatch.setattr(Skipper, "_set_up", lambda skipper, packet: (skipper.expected.add(-1), packet)[1])
    frames = decode(path, None, budget).frames
    assert count.whole == 1 and frames is not None and np.array_equal(frames, expected)


def test_an_error_comes_after_the_packets_before_it(tmp_path) -> None:
    path = write(tmp_path / "clip.mp4", {}, list(range(10)))

    def broken(packets):
        yield from list(packets)[:5]
        raise av.error.InvalidDataError(1, "broken")

    assert LOOK_AHEAD > 5
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        skipper = Skipper(stream, ticks=float(stream.time_base), origin=0.0, times=[0.1], tie=1e-3)
        seen = []
        with pytest.raises(av.FFmpegError, match="broken"):
            for packet in skipper.packets(broken(container.demux())):
                seen.append(packet)
        assert len(seen) == 5
