"""Puts the picture of one file and the sound of another into one mp4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import numpy as np

from mosear.data.budget import MediaBudget
from mosear.data.container import MediaError, opened, video_stream
from mosear.data.media import decode
from mosear.data.sources.base import Remux
from mosear.files import written_atomically

RATE = 48_000
_CHUNK = 1024
_LONGEST = 600.0


def remux_all(remuxes: Sequence[Remux], advance: Callable[[], object] = lambda: None, *, skip_bad: bool = False) -> int:
    """Makes the files that are not there yet, and returns how many that were. An interrupted call is simply repeated.

    Args:
        remuxes: What to make.
        advance: Called after every file.
        skip_bad: Go on where a source file cannot be used; its target is then missing.

    Raises:
        MediaError: A source file cannot be used.
    """
    made = 0
    for job in remuxes:
        if not job.target.is_file():
            job.target.parent.mkdir(parents=True, exist_ok=True)
            try:
                remux(job)
                made += 1
            except MediaError:
                if not skip_bad:
                    raise
        advance()
    return made


def remux(job: Remux) -> None:
    """Writes the target: the picture's packets as they are, and the sound as mono AAC, exactly as long as the picture.

    Both start at their own beginning; a longer sound is cut at the picture's end, a shorter one goes on in silence. The
    file appears whole or not at all.
    """
    budget = MediaBudget(num_frames=1, max_seconds=_LONGEST, audio_rate=RATE)
    wave = decode(None, job.sound, budget).audio
    assert wave is not None
    with written_atomically(job.target) as temporary, opened(job.picture) as source:
        picture = video_stream(source)
        if picture is None:
            raise MediaError(str(job.picture), "no_video_track", "it has no picture to combine")
        with av.open(temporary, "w", format="mp4", options={"fflags": "+bitexact"}) as target:
            copied = target.add_stream_from_template(picture)
            sound = target.add_stream("aac", rate=RATE, layout="mono", options={"threads": "1"})
            end = Fraction(0)
            start = picture.start_time or 0  # decoding times before it are negative, which mp4 can express
            for packet in source.demux(picture):
                if packet.dts is None:
                    continue
                packet.pts = (packet.pts if packet.pts is not None else packet.dts) - start
                packet.dts -= start
                end = max(end, (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base))
                packet.stream = copied
                target.mux(packet)
            for chunk in _encoded(sound, fitted(wave, round(end * RATE))):
                target.mux(chunk)


def fitted(wave: np.ndarray, samples: int) -> np.ndarray:
    """The first ``samples`` of a waveform [N], silence after its end."""
    return np.pad(wave[:samples], (0, max(samples - len(wave), 0)))


def _encoded(stream: av.AudioStream, wave: np.ndarray) -> list[av.Packet]:
    packets: list[av.Packet] = []
    for start in range(0, len(wave), _CHUNK):
        samples = np.ascontiguousarray(wave[None, start : start + _CHUNK], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(np.clip(samples, -1.0, 1.0), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), start
        packets += stream.encode(frame)
    return packets + stream.encode(None)
