"""Decoded sound as arrays."""

from __future__ import annotations

import av
import numpy as np

from mosear.data.budget import MediaBudget

PLAIN_SAMPLES = ("s16", "s16p", "flt", "fltp")
"""Formats of samples that need no resampler, whose set-up takes longer than a clip's sound, if the rate is right."""


HIGHEST_LEVEL = 100.0
"""Full scale is 1, and lossy codecs overshoot it by a little; a sample 40 dB above it is no sound."""


LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000
"""Hz. At 1 Hz a frame of a lossless codec would become a billion samples, at 2 GHz a resampler takes all memory."""

MOST_PLANES = 7
"""PyAV 18 looks for a null pointer after the last plane; frames with 8 or more separate channels have none there."""


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


class SoundCollector:
    """Resamples audio frames to mono, from the container's start to ``seconds``."""

    def __init__(self, seconds: float, budget: MediaBudget) -> None:
        self.seconds, self.rate = seconds, budget.audio_rate
        self.frames_seen = 0
        self._start: float | None = None
        self._input_seconds = 0.0
        self._resampler: av.AudioResampler | None = None
        self._input_format: tuple | None = None
        self._chunks: list[np.ndarray] = []

    @property
    def done(self) -> bool:
        return self._start is not None and self._start + self._input_seconds > self.seconds + 0.1  # a resampler's delay

    def push(self, frame: av.AudioFrame, time: float | None) -> None:
        if self._start is None:
            self._start = time or 0.0
        self.frames_seen += 1
        self._input_seconds += frame.samples / frame.sample_rate
        separate = frame.layout.nb_channels <= MOST_PLANES
        plain = frame.format.name in PLAIN_SAMPLES and (separate or frame.format.is_packed)
        if frame.sample_rate == self.rate and plain:
            self._resample(None)
            self._resampler = self._input_format = None
            self._chunks.append(mono(planes(frame)))
            return
        input_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if input_format != self._input_format:  # some AAC streams change rate or channels after their first frames
            self._resample(None)
            self._resampler = av.AudioResampler(format="fltp" if separate else "flt", rate=self.rate)
            self._input_format = input_format
        frame.pts = None  # positions come from the first timestamp and the sample count
        self._resample(frame)

    def finish(self) -> np.ndarray:
        """float32 [N], N <= seconds * rate: silence up to the first sample, then the sound from the start on."""
        self._resample(None)
        sound = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.float32)
        limit = round(self.seconds * self.rate)
        lead = round((self._start or 0.0) * self.rate)
        if lead > 0:
            sound = np.concatenate([np.zeros(min(lead, limit), np.float32), sound])
        return np.ascontiguousarray(sound[max(-lead, 0) :][:limit])

    def _resample(self, frame: av.AudioFrame | None) -> None:
        if self._resampler is None:
            return
        for piece in self._resampler.resample(frame):
            self._chunks.append(mono(planes(piece)))
