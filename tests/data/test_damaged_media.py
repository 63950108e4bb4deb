"""Damage that once ended decoding with something else than a MediaError, and intact files that did."""

from __future__ import annotations

import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.damaged_files import RECIPES, damaged, intact
from benchmarks.fuzz_media import BUDGET, check, outcome_of
from mosear.data.container import MediaError, opened
from mosear.data.media import decode, probe

ROOT = Path(__file__).parents[2]
RATE = 16_000

FORMER_FAULTS = {
    "a codec that FFmpeg does not know, of the picture": ("mp4", 27),
    "of the picture, in Matroska": ("mkv", 38),
    "of the picture, in AVI": ("avi", 41),
    "of the sound": ("mp4", 143),
    "of the sound, in Matroska": ("mkv", 519),
    "of the sound, in WebM": ("webm", 773),
    "a title that is not UTF-8": ("mp4", 174),
    "a title that is not UTF-8, in Matroska": ("mkv", 29),
    "a title that is not UTF-8, in FLAC": ("flac", 38),
    "a title that is not UTF-8, in MP3": ("mp3", 113),
    "sound that changes to 14 channels": ("mp4", 607),  # it ended the process
}


@pytest.mark.parametrize(("container", "index"), FORMER_FAULTS.values(), ids=FORMER_FAULTS.keys())
def test_former_faults(tmp_path, container, index):
    path = tmp_path / f"damaged.{container}"
    path.write_bytes(damaged(container, 0, index)[0])
    assert outcome_of(path)[0] in ("decoded", "refused")


@pytest.mark.parametrize("container", RECIPES)
def test_damage_is_refused_or_decoded(tmp_path, container):
    outcomes = set()
    for index in range(20):
        path = tmp_path / f"damaged.{container}"
        path.write_bytes(damaged(container, 3, index)[0])
        outcomes.add(outcome_of(path)[0])
    assert outcomes == {"decoded", "refused"}


@pytest.mark.parametrize("container", RECIPES)
def test_what_damage_begins_with_is_decoded(tmp_path, container):
    for number, (content, recipe) in enumerate(zip(intact(container), RECIPES[container], strict=True)):
        path = tmp_path / f"{number}.{container}"
        path.write_bytes(content)
        found = decode(*((path, "video") if recipe.video else (None, path)), BUDGET)
        check(found)
        assert found.duration == pytest.approx(1.0, abs=0.05)


def tone(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def written(path: Path, codec: str, layout: str, rate: int) -> Path:
    channels = av.AudioLayout(layout).nb_channels
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        for start in range(0, rate, 1024):
            samples = np.repeat(tone(1.0, rate)[start : start + 1024, None], channels, axis=1).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "layout", "rate"),
    [
        ("surround.m4a", "aac", "7.1", 16_000),
        ("surround48.m4a", "aac", "7.1", 48_000),
        ("surround.ogg", "libopus", "7.1", 48_000),
        ("sixteen.wav", "pcm_f32le", "hexadecagonal", 48_000),
        ("sixteen16.wav", "pcm_f32le", "hexadecagonal", 16_000),
    ],
)
def test_sound_of_eight_and_more_channels_is_their_mean(tmp_path, name, codec, layout, rate):
    path = written(tmp_path / name, codec, layout, rate)
    code = (
        "import sys, numpy as np; from mosear.data.media import decode\n"
        "np.save(sys.argv[2], decode(None, sys.argv[1]).audio)"
    )
    saved = tmp_path / "sound.npy"  # in a process of its own, which it once ended
    subprocess.run([sys.executable, "-c", code, path, saved], cwd=ROOT, check=True)
    sound = np.load(saved)
    assert len(sound) == RATE
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert np.argmax(spectrum) == 440
    if codec == "pcm_f32le":
        assert np.abs(sound[100:-100] - tone()[100:-100]).max() < 1e-3


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_a_rate_that_no_recorder_has_is_refused_from_the_header(tmp_path, rate):
    path = tmp_path / "rate.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes(bytes(8000))
    with pytest.raises(MediaError, match=f"implausible_sound: {rate} samples per second"):
        decode(None, path)


def test_a_frame_over_the_limit_is_refused_before_it_is_decoded(tmp_path):
    """The header says 64 x 64; the decoder finds 8000 x 8000 in the second picture."""
    path = tmp_path / "grown.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        large = av.CodecContext.create("mjpeg", "w")
        large.width, large.height, large.pix_fmt, large.time_base = 8000, 8000, "yuvj420p", Fraction(1, 25)
        for index, (encoder, side) in enumerate([(stream, 64), (large, 8000), (large, 8000)]):
            frame = av.VideoFrame(side, side, "yuvj420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = index, Fraction(1, 25)
            for packet in encoder.encode(frame):
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 25)
                container.mux(packet)
    code = (
        "import resource, sys\n"
        "from mosear.data.media import MediaBudget, MediaError, decode\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: decode(sys.argv[1], None, MediaBudget(num_frames=3, max_decode_pixels=1_000_000))\n"
        "except MediaError as error: print(error.cause, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    cause, grown = done.stdout.split()
    assert cause in ("undecodable", "too_large") and int(grown) < 48 * 1024  # a frame has 94 MB


def test_an_unknown_codec_is_named(tmp_path):
    content = intact("mp4")[0]
    path = tmp_path / "odd.mp4"
    path.write_bytes(content.replace(b"avc1", b"zzz1"))
    info = probe(path)
    assert info.has_video and (info.width, info.height) == (0, 0)
    with pytest.raises(MediaError, match="undecodable: FFmpeg has no decoder for its video stream"):
        decode(path, "video")
    assert len(decode(None, path).audio) == RATE
    path.write_bytes(intact("mkv")[1].replace(b"A_FLAC", b"A_ZZZZ"))
    with pytest.raises(MediaError, match="undecodable: FFmpeg has no decoder for its audio stream"):
        decode(path, "video")
    assert decode(path, None).frames is not None


def test_a_title_in_latin_1_is_no_obstacle(tmp_path):
    path = tmp_path / "titled.mp3"
    content = intact("mp3")[0]
    assert b"damaged on purpose" in content
    path.write_bytes(content.replace(b"damaged on purpose", b"bes\xe4digt, absicht\xfc"))
    assert np.array_equal(decode(None, path).audio, _sound(content, tmp_path))


def _sound(content: bytes, directory: Path) -> np.ndarray | None:
    (directory / "intact.mp3").write_bytes(content)
    return decode(None, directory / "intact.mp3").audio


def test_an_element_that_makes_no_sense_is_not_blamed_on_the_disk(tmp_path):
    path = tmp_path / "damaged.webm"
    path.write_bytes(damaged("webm", 0, 16)[0])
    with pytest.raises(MediaError) as caught, opened(path) as container:
        list(container.demux())
    assert caught.value.cause == "undecodable"


def test_memory_that_lacks_is_not_a_corrupt_packet(tmp_path):
    import resource

    path = tmp_path / "large.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 8000, 8000, "yuvj420p"
        frame = av.VideoFrame(8000, 8000, "yuvj420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    code = (
        "import resource, sys\n"
        "from mosear.data.media import MediaBudget, MediaError, decode\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, resource.RLIM_INFINITY))\n"
        "try: decode(sys.argv[1], None, MediaBudget(num_frames=1, max_decode_pixels=10**8))\n"
        "except MediaError as error: print(error.cause)\n"
    )
    assert resource.RLIM_INFINITY in resource.getrlimit(resource.RLIMIT_AS)
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["out_of_memory"]


def test_a_length_that_ffmpeg_guesses_is_no_promise(tmp_path):
    path = tmp_path / "live.mkv"
    path.write_bytes(intact("mkv")[2])  # without a length, and with a bit rate for the sound alone
    assert probe(path).duration is None
    assert decode(path, "video").duration == pytest.approx(1.0, abs=0.05)


def test_damage_is_a_function_of_its_name():
    for container in ("mp4", "ogg"):
        assert damaged(container, 0, 5) == damaged(container, 0, 5) != damaged(container, 1, 5)
