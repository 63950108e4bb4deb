"""Small media files of every container, and reproducible damage to them (``benchmarks.fuzz_media`` and the tests)."""

from __future__ import annotations

import functools
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 25
HEADER_BYTES = 2048
"""Half of the damage falls on this much of either end, where containers keep their index."""


@dataclass(frozen=True)
class Recipe:
    """How an intact file is made.

    Attributes:
        video: encoder of the picture; ``None`` = sound alone.
        audio: encoder of the sound; ``None`` = picture alone.
        rate: of the sound, in Hz.
        layout: of the sound.
        muxer: options of the container.
        encoder: options of the picture's encoder.
    """

    video: str | None = None
    audio: str | None = None
    rate: int = 16_000
    layout: str = "mono"
    muxer: Mapping[str, str] = field(default_factory=dict)
    encoder: Mapping[str, str] = field(default_factory=dict)


_X264 = {"threads": "1", "bf": "2", "g": "12"}
_X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}
_VPX = {"threads": "1", "deadline": "realtime", "cpu-used": "8"}
_AV1 = {"preset": "13", "svtav1-params": "lp=1"}
_PAGES = {"page_duration": "100000"}

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "mp4": (
        Recipe("libx264", "aac", encoder=_X264),
        Recipe("libx264", "aac", 44_100, "stereo", {"movflags": "faststart"}, _X264),
        Recipe("libx265", "aac", encoder=_X265),
        Recipe("mpeg4", "libmp3lame", 44_100, muxer={"movflags": "frag_keyframe+empty_moov"}),
    ),
    "mkv": (
        Recipe("libx264", "libopus", 48_000, encoder=_X264),
        Recipe("mpeg4", "flac"),
        Recipe("mjpeg", "pcm_s16le", muxer={"live": "1"}),
    ),
    "webm": (Recipe("libvpx", "libopus", 48_000, encoder=_VPX), Recipe("libvpx-vp9", "libopus", 48_000, encoder=_VPX),
             Recipe("libsvtav1", "libopus", 48_000, encoder=_AV1)),
    "avi": (Recipe("mpeg4", "libmp3lame", 44_100), Recipe("mjpeg", "pcm_s16le"), Recipe("msmpeg4", "ac3", 48_000)),
    "wav": (Recipe(audio="pcm_s16le"), Recipe(audio="pcm_f32le", rate=44_100, layout="stereo"),
            Recipe(audio="adpcm_ms", rate=22_050), Recipe(audio="pcm_mulaw", rate=8_000)),
    "flac": (Recipe(audio="flac"), Recipe(audio="flac", rate=44_100, layout="stereo")),
    "mp3": (Recipe(audio="libmp3lame"), Recipe(audio="libmp3lame", rate=44_100, layout="stereo")),
    "ogg": (Recipe(audio="libopus", rate=48_000, muxer=_PAGES), Recipe(audio="flac", muxer=_PAGES)),
}  # fmt: skip
"""Per container, the files that damage begins with."""


def encoded(container: str, recipe: Recipe, seconds: float = 1.0) -> bytes:
    """An intact file: moving stripes and a tone. The same bytes at every call with the same libraries."""
    with tempfile.TemporaryDirectory() as directory:  # a muxer that moves the index to the front reads its file again
        path = Path(directory) / f"intact.{container}"
        _write(path, recipe, seconds)
        return path.read_bytes()


def _write(path: Path, recipe: Recipe, seconds: float) -> None:
    os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder tells its whole configuration otherwise
    with av.open(str(path), "w", options={"fflags": "+bitexact", **recipe.muxer}) as output:
        output.metadata["title"] = "damaged on purpose"
        picture = output.add_stream(recipe.video, rate=FPS, options=dict(recipe.encoder)) if recipe.video else None
        sound = output.add_stream(recipe.audio, rate=recipe.rate, layout=recipe.layout) if recipe.audio else None
        if isinstance(picture, av.VideoStream):
            _write_picture(output, picture, seconds)
        if isinstance(sound, av.AudioStream):
            _write_sound(output, sound, seconds)


def _write_picture(output: av.container.OutputContainer, stream: av.VideoStream, seconds: float) -> None:
    stream.width, stream.height = 64, 64
    stream.pix_fmt = "yuvj420p" if stream.codec_context.name == "mjpeg" else "yuv420p"
    stripes = np.add.outer(3 * np.arange(64), 5 * np.arange(64))
    for index in range(round(seconds * FPS)):
        image = np.repeat(((stripes + 7 * index) % 256).astype(np.uint8)[..., None], 3, axis=2)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, FPS)
        output.mux(stream.encode(frame))
    output.mux(stream.encode())


def _write_sound(output: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    stream.codec_context.options = {"flags": "+bitexact"}
    rate, layout = stream.rate, stream.layout.name
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
    wave = np.repeat(tone[None], 2 if layout == "stereo" else 1, axis=0)
    for start in range(0, wave.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + 1024]), "fltp", layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
        output.mux(stream.encode(frame))
    output.mux(stream.encode())


@functools.cache
def intact(container: str) -> tuple[bytes, ...]:
    """The files of :data:`RECIPES`."""
    return tuple(encoded(container, recipe) for recipe in RECIPES[container])


Damage = Callable[[bytearray, np.random.Generator, Sequence[bytes]], bytearray]


def damaged(container: str, seed: int, index: int) -> tuple[bytes, str]:
    """One damaged file, and in words what was done to it: a function of the three arguments."""
    rng = np.random.default_rng([seed, zlib.crc32(container.encode()), index])
    files = intact(container)
    which = int(rng.integers(len(files)))
    content, done = bytearray(files[which]), []
    for name in rng.choice(list(DAMAGES), int(rng.integers(1, 4))):
        content = DAMAGES[str(name)](content, rng, files)
        done.append(str(name))
    if container == "ogg" and rng.random() < 0.5:  # else hardly any damage gets past the checksum of its page
        content = _with_checksums(content)
        done.append("checksums made right")
    return bytes(content), f"file {which}: {', '.join(done)}"


_OGG_CRC = [
    functools.reduce(lambda c, _: ((c << 1) ^ (0x04C11DB7 if c >> 31 else 0)) & 0xFFFFFFFF, range(8), byte << 24)
    for byte in range(256)
]


def _with_checksums(content: bytearray) -> bytearray:
    """Every Ogg page with the checksum of what it holds now (RFC 3533, field 7)."""
    start = content.find(b"OggS")
    while start >= 0 and start + 27 <= len(content):
        sizes = content[start + 27 : start + 27 + content[start + 26]]
        page = content[start : start + 27 + len(sizes) + sum(sizes)]
        page[22:26] = bytes(4)
        crc = 0
        for byte in page:
            crc = ((crc << 8) & 0xFFFFFFFF) ^ _OGG_CRC[(crc >> 24) ^ byte]
        content[start + 22 : start + 26] = crc.to_bytes(4, "little")
        start = content.find(b"OggS", start + 4)
    return content


def _place(content: bytearray, rng: np.random.Generator) -> int:
    """Somewhere in the file, at every second call near one of its ends."""
    length = len(content)
    if rng.random() < 0.5 or length < 2 * HEADER_BYTES:
        return int(rng.integers(length + 1))
    near = int(rng.integers(HEADER_BYTES))
    return near if rng.random() < 0.7 else length - near


def _range(content: bytearray, rng: np.random.Generator) -> slice:
    start = _place(content, rng)
    return slice(start, min(len(content), start + int(2 ** rng.uniform(0, 12))))


def _truncate(content: bytearray, rng: np.random.Generator, files: Sequence[bytes]) -> bytearray:
    return content[: _place(content, rng)]


def _flip_bits(content: bytearray, rng: np.random.Generator, files: Sequence[bytes]) -> bytearray:
    for _ in range(int(2 ** rng.uniform(0, 7)) if content else 0):
        content[min(_place(content, rng), len(content) - 1)] ^= 1 << int(rng.integers(8))
    return content


def _splice(content: bytearray, rng: np.random.Generator, files: Sequence[bytes]) -> bytearray:
    other = bytearray(files[int(rng.integers(len(files)))])
    return content[: _place(content, rng)] + other[_place(other, rng) :]


def _overwrite(content: bytearray, rng: np.random.Generator, files: Sequence[bytes]) -> bytearray:
    chosen = _range(content, rng)
    content[chosen] = rng.bytes(chosen.stop - chosen.start)
    return content


def _duplicate(content: bytearray, rng: np.random.Generator, files: Sequence[bytes]) -> bytearray:
    copied = content[_range(content, rng)]
    place = _place(content, rng)
    content[place:place] = copied * int(rng.integers(1, 9))
    return content


def _zero(content: bytearray, rng: np.random.Generator, files: Sequence[bytes]) -> bytearray:
    chosen = _range(content, rng)
    content[chosen] = bytes(chosen.stop - chosen.start)
    return content


def _remove(content: bytearray, rng: np.random.Generator, files: Sequence[bytes]) -> bytearray:
    del content[_range(content, rng)]
    return content


def _extreme_number(content: bytearray, rng: np.random.Generator, files: Sequence[bytes]) -> bytearray:
    """Sizes, counts and rates at the ends of what their bytes can hold."""
    width = int(rng.choice([1, 2, 4, 8]))
    value = [bytes(width), b"\xff" * width, b"\x7f" + b"\xff" * (width - 1), b"\x80" + bytes(width - 1)]
    chosen = value[int(rng.integers(4))]
    start = _place(content, rng)
    content[start : start + width] = chosen if rng.random() < 0.5 else chosen[::-1]
    return content


DAMAGES: dict[str, Damage] = {
    "truncate": _truncate,
    "flip bits": _flip_bits,
    "splice": _splice,
    "overwrite": _overwrite,
    "duplicate": _duplicate,
    "zero": _zero,
    "remove": _remove,
    "extreme number": _extreme_number,
}
"""By name, ways to damage a file."""
