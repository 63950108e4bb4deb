"""Decoded sound as arrays."""

from __future__ import annotations

import av
import numpy as np

PLAIN_SAMPLES = ("s16", "s16p", "flt", "fltp")
"""Formats of samples that need no resampler, whose set-up takes longer than a clip's sound, if the rate is right."""


def planes(frame: av.AudioFrame) -> np.ndarray:
    """float32 ``[channels, N]`` of a frame in one of ``PLAIN_SAMPLES``, the values that FFmpeg's resampler gives."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    return samples if samples.dtype == np.float32 else samples.astype(np.float32) / 2**15


def mono(channels: np.ndarray) -> np.ndarray:
    """The mean of ``[channels, N]``: FFmpeg's downmix of float samples weighs two channels 0.707 each, past [-1, 1]."""
    return channels[0] if len(channels) == 1 else channels.mean(axis=0, dtype=np.float32)
