"""Media written with PyAV for the tests: nothing binary is committed."""

import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from backbone_fixture import any_backbone, backbone, corpus, qwen3, tiny_checkpoint  # noqa: F401 - fixtures of ours


def frame_level(index: int) -> int:
    """The grey level that encodes a frame's index."""
    return 20 + 4 * (index % 50)


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    """float32 [N], amplitude 1/2."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_media(
    path: Path,
    *,
    video: str | None = "libx264",
    audio: str | None = "aac",
    frames: int = 50,
    fps: Fraction | int = 25,
    times: Sequence[int] | None = None,
    size: tuple[int, int] = (64, 48),
    rate: int = 16_000,
    layout: str = "mono",
    audio_delay: float = 0.0,
    begin: float = 0.0,
    audio_seconds: float | None = None,
    rotation: int = 0,
    muxer: dict[str, str] | None = None,
    encoder: dict[str, str] | None = None,
) -> Path:
    """Writes grey frames that encode their index, and a tone.

    ``times`` gives frame times in ticks of 1 / fps; ``begin`` moves all times, in seconds.
    """
    with av.open(path, "w", options=muxer or {}) as container:
        if video:
            picture = container.add_stream(video, rate=fps, options=encoder or {})
            picture.width, picture.height = size
            picture.pix_fmt = "yuv420p"
            if rotation:
                picture.set_display_rotation(rotation)
        sound = container.add_stream(audio, rate=rate, layout=layout) if audio else None
        if video:
            for index in range(frames):
                image = np.full((size[1], size[0], 3), frame_level(index), np.uint8)
                if rotation:
                    image[: size[1] // 2] = 255 - image[0, 0]
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = (times[index] if times else index) + round(begin * fps)
                frame.time_base = 1 / Fraction(fps)
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
        if sound:
            seconds = audio_seconds if audio_seconds is not None else frames / fps
            wave = np.repeat(tone(float(seconds), rate)[None], 2 if layout == "stereo" else 1, axis=0)
            for start in range(0, wave.shape[1], 1024):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(wave[:, start : start + 1024]), format="fltp", layout=layout
                )
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = start + round((audio_delay + begin) * rate)
                container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


@pytest.fixture(scope="session")
def media_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="session")
def media(media_dir: Path) -> Callable[..., Path]:
    """``media(name, **options)`` writes a file once per session; see `write_media`."""

    def get(name: str, **options: object) -> Path:
        path = media_dir / name
        return path if path.exists() else write_media(path, **options)

    return get


@pytest.fixture(scope="session")
def plain_mp4(media: Callable[..., Path]) -> Path:
    """2 s, 64x48, 25 fps, with a 16 kHz tone."""
    return media("plain.mp4")


@pytest.fixture(scope="session")
def renamed(media_dir: Path, plain_mp4: Path) -> Callable[[str], Path]:
    """The plain mp4 under another name."""
    return lambda name: Path(shutil.copy(plain_mp4, media_dir / name))
