"""Two kinds of clips: small ones, whose decoding costs little, and such as a camera writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mosear.data.synthetic.clips import FPS, NUM_FRAMES, SAMPLE_RATE
from mosear.data.synthetic.mp4 import VIDEO_OPTIONS, write_clip
from mosear.files import written_atomically

if TYPE_CHECKING:
    from av.container import OutputContainer

FRAMES = 8
"""Frames that a model sees."""

RENDERED_SECONDS = NUM_FRAMES / FPS


@dataclass(frozen=True)
class Clips:
    """How clips are written, and what a model sees of them.

    Each of ``FRAMES`` pictures is held for an equal part of the clip: systems that pick other frames of it see the
    same pictures.

    Attributes:
        width: of a frame in the file.
        height: likewise.
        fps: likewise.
        repeats: the rendered sound is heard so many times, and the clip is as long.
        pixels: a system's limit for a frame; what is larger is scaled down, to multiples of 28 pixels.
        camera: noise, a background, and a stereo track of 48 kHz beside the picture.
    """

    width: int
    height: int
    fps: int
    repeats: int
    pixels: int
    camera: bool = False

    @property
    def seconds(self) -> float:
        """Length of a clip."""
        return self.repeats * RENDERED_SECONDS

    @property
    def held(self) -> list[int]:
        """Per frame of the file, which picture it shows."""
        count = round(self.fps * self.seconds)
        return [index * FRAMES // count for index in range(count)]

    @property
    def sampled_fps(self) -> float:
        """Frames per second that give ``FRAMES`` frames of a clip."""
        return FRAMES / self.seconds

    def sound(self, rendered: np.ndarray) -> np.ndarray:
        """Mono, 16 kHz."""
        return np.tile(rendered, self.repeats)

    def write(self, path: Path, frames: np.ndarray, audio: np.ndarray, rng: np.random.Generator) -> None:
        """Write the mp4 file.

        Args:
            path: where to.
            frames: as rendered, uint8 ``[NUM_FRAMES, H, W, 3]``.
            audio: of the whole clip.
            rng: of the noise.
        """
        step = len(frames) // FRAMES
        pictures = frames[step // 2 :: step]
        if self.camera:
            write_camera_clip(path, self, pictures, audio, rng)
        else:
            write_clip(path, pictures[self.held], self.fps, audio, SAMPLE_RATE)


CLIPS = {
    "small": Clips(112, 112, FPS, 1, 112 * 112),
    # 13,000 pixels: 140 x 84 in every system, whatever it rounds before.
    "camera": Clips(640, 360, 25, 3, 13_000, camera=True),
}

CAMERA_RATE = 48_000
CAMERA_BITS = 128_000
NOISE = 4.0
"""Standard deviation of a sensor's noise, in levels of 256: it is in every frame, and leaves H.264 nothing to skip."""


def write_camera_clip(
    path: Path, clips: Clips, pictures: np.ndarray, audio: np.ndarray, rng: np.random.Generator
) -> None:
    """H.264 with noise in every frame, and AAC in stereo at 48 kHz."""
    import av

    with written_atomically(path) as temporary, av.open(str(temporary), mode="w", format="mp4") as container:
        video = container.add_stream("libx264", rate=clips.fps, options=VIDEO_OPTIONS)
        video.width, video.height, video.pix_fmt = clips.width, clips.height, "yuv420p"
        track = container.add_stream("aac", rate=CAMERA_RATE, layout="stereo", options={"threads": "1"})
        track.bit_rate = CAMERA_BITS
        for number, image in enumerate(camera_frames(clips, pictures, rng)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        write_stereo(container, track, np.repeat(audio, CAMERA_RATE // SAMPLE_RATE))


def write_stereo(container: OutputContainer, track: object, sound: np.ndarray) -> None:
    """The same sound on both channels."""
    import av
    from av.audio.stream import AudioStream

    assert isinstance(track, AudioStream)
    both = np.ascontiguousarray(np.stack([sound, sound]).clip(-1, 1), dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(both, format="fltp", layout="stereo")
    frame.sample_rate, frame.pts = CAMERA_RATE, 0
    container.mux(track.encode(frame))
    container.mux(track.encode(None))


def camera_frames(clips: Clips, pictures: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """uint8 ``[H, W, 3]``, one per frame of the file: a face before a textured wall, and noise over both."""
    from PIL import Image

    height, width = clips.height, clips.width
    wall = Image.fromarray(rng.integers(60, 190, (height // 20, width // 20, 3), dtype=np.uint8))
    scenes = []
    for picture in pictures:
        scene = wall.resize((width, height), Image.Resampling.BICUBIC)
        scene.paste(
            Image.fromarray(picture).resize((height, height), Image.Resampling.BICUBIC), ((width - height) // 2, 0)
        )
        scenes.append(np.asarray(scene, dtype=np.int16))
    noise = np.round(rng.normal(0.0, NOISE, (2 * height, 2 * width, 3))).astype(np.int16)
    for index in clips.held:
        top, left = rng.integers(height), rng.integers(width)  # another piece of one field: fresh noise costs more
        piece = noise[top : top + height, left : left + width]
        yield np.clip(scenes[index] + piece, 0, 255).astype(np.uint8)
