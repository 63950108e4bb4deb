"""Which packets of a video need no decoding: frames that are not asked for and that no other frame refers to.

H.264 and HEVC mark frames that are no reference (half of them in a usual file). Decoders can leave those out, and every
other frame stays what it is, to the last bit.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import av
from av.container import InputContainer

CODECS = ("h264", "hevc")
FORMATS = ("mov", "matroska", "mpegts")
"""First names of the containers that say of each packet when its frame is shown. AVI does not."""

LOOK_AHEAD = 32
"""Packets. A frame is decoded at most 16 frames before or after its turn on screen."""


def can_skip(container: InputContainer, stream: av.VideoStream) -> bool:
    """Whether the marks and times of this video can be relied on."""
    return stream.codec_context.name in CODECS and container.format.name.split(",")[0] in FORMATS


class Skipper:
    """Goes through a container's packets and tells the video's decoder what to leave out.

    Frame i is on screen from its own time to that of frame i + 1, whose packet may come later: packets wait until it is
    known. If it is not found, the frame counts as on screen for longer, so at worst too much is decoded.

    Attributes:
        expected: time stamps of frames that are on screen at a wanted time.

    Args:
        stream: of the video; other streams' packets pass through, in their order.
        ticks: seconds of a unit of time stamps.
        origin: seconds that are subtracted from time stamps.
        times: when a frame is wanted, ascending.
        tie: a frame counts as on screen so many seconds before its time.
    """

    def __init__(
        self, stream: av.VideoStream, *, ticks: float, origin: float, times: Sequence[float], tie: float
    ) -> None:
        self.stream, self.ticks, self.origin, self.times, self.tie = stream, ticks, origin, times, tie
        self.expected: set[int] = set()
        self._stamps: list[int] = []  # ascending, of all packets so far

    def packets(self, demuxed: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Each packet, with the decoder set for it."""
        waiting: deque[av.Packet] = deque()
        failure: av.FFmpegError | None = None
        ahead = 0
        source = iter(demuxed)
        while True:
            try:
                packet = next(source, None)
            except av.FFmpegError as error:  # what came before it may be all that is needed
                packet, failure = None, error
            if packet is None:
                break
            waiting.append(packet)
            if self._is_video(packet):
                ahead += 1
                if packet.pts is not None:
                    insort(self._stamps, packet.pts)
            while ahead > LOOK_AHEAD:
                ahead -= self._is_video(waiting[0])
                yield self._set_up(waiting.popleft())
        while waiting:
            yield self._set_up(waiting.popleft())
        if failure is not None:
            raise failure

    def fits(self, stamps: Sequence[int | None]) -> bool:
        """Whether frames with these time stamps came each in its turn, and none that was expected lacks."""
        known = [stamp for stamp in stamps if stamp is not None]
        return len(known) == len(stamps) and known == sorted(set(known)) and self.expected <= set(known)

    def _is_video(self, packet: av.Packet) -> bool:
        return packet.stream.index == self.stream.index

    def _set_up(self, packet: av.Packet) -> av.Packet:
        if self._is_video(packet):
            needed = packet.pts is None or self._needed(packet.pts)
            self.stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
        return packet

    def _needed(self, stamp: int) -> bool:
        place = bisect_left(self._stamps, stamp)
        later = bisect_left(self._stamps, stamp + 1)
        start = self._seconds(stamp) if place else -math.inf  # the first frame also stands for the time before it
        end = self._seconds(self._stamps[later]) if later < len(self._stamps) else math.inf
        first = bisect_left(self.times, start)
        if first < len(self.times) and self.times[first] < end:
            self.expected.add(stamp)
            return True
        return place == 0

    def _seconds(self, stamp: int) -> float:
        return stamp * self.ticks - self.origin - self.tie
