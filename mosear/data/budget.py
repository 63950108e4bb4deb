"""What one clip may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from mosear.settings import AtLeastOne, Positive, settings


@settings
@dataclass(frozen=True)
class MediaBudget:
    """What one clip may cost. Checked before anything is decoded.

    Args:
        num_frames: Number of frames returned, T. Exactly one of ``num_frames`` and ``fps`` is set, the other is None.
        fps: Frames returned per second of video; T = round(fps * seconds), between 1 and ``max_frames``.
        max_frames: Upper limit of T.
        max_pixels: Upper limit of H * W of a returned frame; larger ones are scaled down with their aspect ratio kept.
        max_seconds: Media after this time is not decoded.
        max_decode_pixels: A video whose header announces larger frames than this is refused.
        audio_rate: Sampling rate of the returned waveform in Hz.
    """

    num_frames: AtLeastOne | None = 8
    fps: Positive | None = None
    max_frames: AtLeastOne = 64
    max_pixels: Annotated[int, Ge(4), "frames have even sides"] = 128 * 28 * 28
    max_seconds: Positive = 30.0
    max_decode_pixels: AtLeastOne = 7680 * 4320
    audio_rate: AtLeastOne = 16_000

    def further_problems(self) -> list[str]:
        """Numbers of frames that contradict each other."""
        problems = []
        if (self.num_frames is None) == (self.fps is None):
            problems.append(
                "exactly one of num_frames and fps must be set, the other null; "
                f"got num_frames={self.num_frames}, fps={self.fps}"
            )
        if self.num_frames is not None and self.num_frames > self.max_frames:
            problems.append(
                f"num_frames={self.num_frames} is above max_frames={self.max_frames}: raise the one or lower the other"
            )
        return problems

    def frame_count(self, seconds: float) -> int:
        """T, the number of frames returned for a video of this length."""
        if self.num_frames is not None:
            return self.num_frames
        assert self.fps is not None
        return min(max(round(self.fps * seconds), 1), self.max_frames)


def fit_within(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Even (width, height) with width * height <= max_pixels, about the same aspect ratio, never larger than given."""
    scale = min(1.0, math.sqrt(max_pixels / (width * height)))
    new_width, new_height = (max(2, int(side * scale) // 2 * 2) for side in (width, height))
    if new_width * new_height > max_pixels:  # a very flat or tall picture whose short side was lifted to 2
        return (max_pixels // 4 * 2, 2) if new_width > new_height else (2, max_pixels // 4 * 2)
    return new_width, new_height
