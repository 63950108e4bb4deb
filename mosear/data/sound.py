"""Decoded sound as arrays."""

from __future__ import annotations

import av
import numpy as np

PLAIN_SAMPLES = ("s16", "s16p", "flt", "fltp")
"""Formats of samples that need no resampler, whose set-up takes longer than a clip's sound, if the rate is right."""


HIGHEST_LEVEL = 100.0
"""Full scale is 1, and lossy codecs overshoot it by a little; a sample 40 dB above it is no sound."""


def flaw(sound: np.ndarray) -> str | None:
    """What makes ``[N]`` samples implausible as a sound; ``None`` if nothing does."""
    if not (finite := np.isfinite(sound)).all():
        return f"{int((~finite).sum())} of {len(sound)} samples of the sound are not finite"
    peak = float(np.abs(sound).max(initial=0.0))
    if peak > HIGHEST_LEVEL:
        return f"a sample of the sound is {peak:.3g}, full scale is 1"
    return None


def planes(frame: av.AudioFrame) -> np.ndarray:
    """float32 ``[channels, N]`` of a frame in one of ``PLAIN_SAMPLES``, the values that FFmpeg's resampler gives."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    return samples if samples.dtype == np.float32 else samples.astype(np.float32) / 2**15


def mono(channels: np.ndarray) -> np.ndarray:
    """The mean of ``[channels, N]``: FFmpeg's downmix of float samples weighs two channels 0.707 each, past [-1, 1]."""
    return channels[0] if len(channels) == 1 else channels.mean(axis=0, dtype=np.float32)
