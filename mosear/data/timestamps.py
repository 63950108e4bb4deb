"""Time stamps of packets that go on where those of the file restart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

BACK_SECONDS = 0.5
"""Decoding times never run backwards in an intact stream; a little of it is jitter, more is a restart."""
AHEAD_SECONDS = 3600.0
"""A gap this long is a counter that overflowed, as after a stamp below 0 in formats that cannot hold one."""

MAY_RESTART = ("mpegts", "mpeg", "flv")
"""Formats that give the times of the file's last packet for its length, though recordings may be strung together."""


_INDEX_BYTES = 2**16
"""More than what comes before the first packet of a file that was written as it was recorded."""


class Continuous:
    """Passes packets on, in place shifted so that each stream's time stamps continue.

    Attributes:
        jumps: how many restarts and leaps were closed.
    """

    def __init__(self) -> None:
        self.jumps = 0
        self._shift: dict[int, int] = {}
        self._last: dict[int, tuple[int, int]] = {}  # decoding time of the packet before, and when it ends

    def __call__(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Each packet; without a restart just as it came."""
        for packet in packets:
            self._place(packet)
            yield packet

    def _place(self, packet: av.Packet) -> None:
        index = packet.stream_index
        shift = self._shift.get(index, 0)
        if packet.dts is not None:  # only these run forwards: times on screen go to and fro
            now = packet.dts + shift
            if index in self._last:
                before, end = self._last[index]
                moved = (now - before) * seconds_of(packet.time_base)
                if not -BACK_SECONDS <= moved <= AHEAD_SECONDS:
                    self.jumps += 1
                    shift, now = shift + end - now, end
                    self._shift[index] = shift
            self._last[index] = (now, now + max(packet.duration or 0, 1))
        if shift:
            packet.dts = None if packet.dts is None else packet.dts + shift
            packet.pts = None if packet.pts is None else packet.pts + shift


def may_restart(container: InputContainer) -> bool:
    """Must the packets be looked at before the header's length is believed?"""
    return container.format.name.split(",")[0] in MAY_RESTART


def is_guessed(container: InputContainer) -> bool:
    """Did FFmpeg guess a Matroska file's length from its size and the bit rates that it knows?

    It then gives the length to the streams as well, of which Matroska itself says nothing.
    """
    if not container.format.name.startswith("matroska") or not any(stream.duration for stream in container.streams):
        return False
    coded = [stream.codec_context for stream in container.streams if stream.type in ("video", "audio")]
    rate = sum(one.bit_rate or 0 for one in coded if one is not None)
    size = (container.duration or 0) / av.time_base * rate / 8
    return rate > 0 and container.size - _INDEX_BYTES <= size <= container.size


def seconds_of(time_base: Fraction | None) -> float:
    """Seconds of a unit of time stamps."""
    return float(time_base) if time_base is not None else 0.0


def frame_seconds(stream: Any) -> float:
    """How long a packet without a duration of its own stands on screen; sound says it itself."""
    return 1 / float(stream.average_rate) if stream.type == "video" and stream.average_rate else 0.0
