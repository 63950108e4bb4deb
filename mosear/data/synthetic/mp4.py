"""Writes a clip as an mp4 file (H.264 + AAC) that is the same, byte for byte, every time."""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet
    from av.video.stream import VideoStream

# mbtree off: x264's look-ahead rate control reads memory that it never wrote, and its bytes then vary from run to run.
VIDEO_OPTIONS = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "mbtree=0"}
AUDIO_BIT_RATE = 64_000


def write_clip(
    target: str | os.PathLike | IO[bytes],
    frames: np.ndarray | None,
    fps: int | None,
    audio: np.ndarray | None,
    rate: int | None,
) -> None:
    """Writes frames and sound into one mp4 container.

    Encoding runs on one thread and no creation time is stored, so equal input gives equal bytes. A path is written
    through a temporary file beside it: a reader never meets half a clip.

    Args:
        target: Path, or a binary file object open for writing (seekable).
        frames: uint8 [T, H, W, 3] with even H and W, or None for a file without a video track.
        fps: Frames per second; needed with frames.
        audio: Mono float [N] in [-1, 1], or None for a file without an audio track.
        rate: Samples per second; needed with audio.
    """
    _check(frames, fps, audio, rate)
    if not isinstance(target, (str, os.PathLike)):
        _encode(target, frames, fps, audio, rate)
        return
    path = Path(target)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            _encode(file, frames, fps, audio, rate)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(frames: np.ndarray | None, fps: int | None, audio: np.ndarray | None, rate: int | None) -> None:
    if frames is None and audio is None:
        raise ValueError("A clip needs frames or audio; both are None.")
    if frames is not None:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}.")
        if frames.shape[1] % 2 or frames.shape[2] % 2:
            raise ValueError(f"H.264 with 4:2:0 colour needs even height and width, got {list(frames.shape[1:3])}.")
        if not fps:
            raise ValueError(f"frames need a frame rate above 0, got fps={fps}.")
    if audio is not None:
        if audio.ndim != 1:
            raise ValueError(f"audio must be mono [N], got shape {list(audio.shape)}.")
        if not rate:
            raise ValueError(f"audio needs a sample rate above 0, got rate={rate}.")


def _encode(
    file: IO[bytes], frames: np.ndarray | None, fps: int | None, audio: np.ndarray | None, rate: int | None
) -> None:
    import av

    # bitexact keeps library versions and dates out of the container.
    with av.open(file, mode="w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # Both streams must exist before the first packet is muxed, which writes the header: encoding is lazy.
        tracks: list[Iterator[list[Packet]]] = []
        if frames is not None:
            video_stream = container.add_stream("libx264", rate=fps, options=VIDEO_OPTIONS)
            video_stream.height, video_stream.width = frames.shape[1:3]
            video_stream.pix_fmt = "yuv420p"
            tracks.append(_encode_video(video_stream, frames))
        if audio is not None:
            audio_stream = container.add_stream("aac", rate=rate, layout="mono", options={"threads": "1"})
            audio_stream.bit_rate = AUDIO_BIT_RATE
            tracks.append(_encode_audio(audio_stream, audio))
        for packets in chain(*tracks):
            container.mux(packets)


def _encode_video(stream: "VideoStream", frames: np.ndarray) -> "Iterator[list[Packet]]":
    import av

    for number, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = number
        yield stream.encode(frame)
    yield stream.encode(None)


def _encode_audio(stream: "AudioStream", audio: np.ndarray) -> "Iterator[list[Packet]]":
    import av

    samples = np.ascontiguousarray(np.clip(audio, -1.0, 1.0), dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = stream.sample_rate
    frame.pts = 0
    yield stream.encode(frame)
    yield stream.encode(None)
