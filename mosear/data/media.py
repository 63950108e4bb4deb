"""Video and audio files -> a few RGB frames and a 16 kHz mono waveform, through PyAV.

One call of :func:`decode` walks a container once, converts only the frames it will return, and refuses what is over
budget from the header alone. Whatever is wrong with a file surfaces as one :class:`MediaError` whose ``cause`` is a
short slug that a quarantine can count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from mosear.data.budget import MediaBudget, fit_within
from mosear.data.container import MediaError, Source, decoder_options, opened, source_name, video_stream
from mosear.data.skipping import Skipper, can_skip
from mosear.data.sound import HIGHEST_RATE, LOWEST_RATE, SoundCollector, flaw
from mosear.data.timestamps import Continuous, frame_seconds, is_guessed, may_restart, seconds_of

__all__ = ["Media", "MediaBudget", "MediaError", "MediaInfo", "decode", "fit_within", "probe"]

_Decoded = tuple["_FrameSampler | None", np.ndarray | None, float]
"""Frames, sound, and seconds of the longest wanted stream."""

ThreadType = Literal["NONE", "SLICE", "FRAME", "AUTO"]

_TIE_SECONDS = 1e-3  # FLV and Matroska keep milliseconds: a frame this close after a wanted time counts as shown at it
_CUT_SECONDS = 0.1
_CORRUPT_SHARE = 0.1  # players skip a bad packet, and so do we, up to this share of a stream


@dataclass(frozen=True, eq=False)
class Media:
    """A decoded clip.

    Attributes:
        frames: uint8 [T, H, W, 3] RGB, or None without video.
        fps: Frames per second of ``frames``: T / covered seconds of video (0.0 without video).
        audio: float32 [N] mono at ``budget.audio_rate``, sample 0 at the container's start; or None without audio.
        duration: Seconds covered, at most ``budget.max_seconds``.
        cut: Whether the file goes on after ``budget.max_seconds``.
    """

    frames: np.ndarray | None
    fps: float
    audio: np.ndarray | None
    duration: float
    cut: bool = False


@dataclass(frozen=True)
class MediaInfo:
    """What a file's header says; ``duration`` and ``frame_rate`` are None where it says nothing."""

    has_video: bool
    has_audio: bool
    duration: float | None
    width: int
    height: int
    frame_rate: float | None

    def is_cut(self, budget: MediaBudget) -> bool:
        """Whether the file goes on after ``budget.max_seconds``, as far as its header says."""
        return is_cut(self.duration or 0.0, budget)


def is_cut(seconds: float, budget: MediaBudget) -> bool:
    """Whether so long a file loses its end; a frame more than allowed does not count."""
    return seconds > budget.max_seconds + _CUT_SECONDS


def probe(source: Source) -> MediaInfo:
    """Reads the header of a media file; decodes nothing and never scans the file."""
    with opened(source) as container:
        video = video_stream(container)
        rate = video.average_rate if video is not None else None
        coded = video.codec_context if video is not None else None  # None also where FFmpeg does not know the codec
        return MediaInfo(
            has_video=video is not None,
            has_audio=bool(container.streams.audio),
            duration=container.duration / av.time_base if container.duration and not is_guessed(container) else None,
            width=coded.width if coded is not None else 0,
            height=coded.height if coded is not None else 0,
            frame_rate=float(rate) if rate else None,
        )


def decode(
    video: Source | None,
    audio: Source | Literal["video"] | None,
    budget: MediaBudget | None = None,
    *,
    thread_type: ThreadType = "NONE",
) -> Media:
    """Decodes one clip.

    Frames are chosen by timestamp: with D seconds of video (at most ``max_seconds``) and T frames, frame i is the one
    on screen at (i + 1/2) D / T, counted from the container's start. Variable frame rate, reordered frames and unknown
    frame counts need no special case. A frame stands until the next one comes, so a video with fewer than T frames
    repeats some, and the last one stands until the end.

    Args:
        video: A file or a seekable binary stream; None for no frames.
        audio: The same for sound (a video file is fine: its audio track is read), or ``"video"`` for the track of
            ``video``, which is then demuxed in the same pass; None for no sound.
        budget: What the clip may cost; ``MediaBudget()`` if None.
        thread_type: FFmpeg's decoder threading. Default none, since decoding usually runs in data-loading workers.

    Raises:
        MediaError: The file is missing, broken, too large, lacks the track, or its sound is not finite.
    """
    budget = budget or MediaBudget()
    check_wanted(video, audio)
    frames = sound = None
    longest = 0.0
    if video is not None:
        frames, sound, longest = _decode_container(video, True, audio == "video", budget, thread_type)
    if audio is not None and audio != "video":
        _, sound, seconds = _decode_container(audio, False, True, budget, thread_type)
        longest = max(longest, seconds)
    cut = is_cut(longest, budget)
    heard = len(sound) / budget.audio_rate if sound is not None else 0.0
    if frames is None:
        return Media(None, 0.0, sound, heard, cut)
    return Media(np.stack(frames.images), len(frames.images) / frames.seconds, sound, max(frames.seconds, heard), cut)


def check_wanted(video: Source | None, audio: Source | None) -> None:
    """Raises ``ValueError`` unless the two name something to decode."""
    if audio == "video" and video is None:
        raise ValueError(
            'audio="video" means the track of the video file, but video is None: pass a video or an audio file.'
        )
    if video is None and audio is None:
        raise ValueError("Nothing to decode: video and audio are both None.")


def _decode_container(
    source: Source, want_video: bool, want_audio: bool, budget: MediaBudget, thread_type: ThreadType
) -> _Decoded:
    """Decodes the wanted tracks of one file, in one pass if its header gives their lengths."""
    name = source_name(source)
    with opened(source) as container:
        tracks = _Tracks(container, name, want_video, want_audio, budget)
        ends, skip = tracks.ends, all(tracks.ends.values()) and may_restart(container)
        if skip:
            measured, restarts = tracks.scan()
            ends = measured if restarts else ends
        elif not all(ends.values()):
            ends, _ = tracks.scan()
        elif (found := tracks.decode(thread_type)) is not None:
            return found
    # Opened afresh, since not every format can seek back to its start.
    for attempt in (True, False) if skip else (False,):
        with opened(source) as container:
            found = _Tracks(container, name, want_video, want_audio, budget, ends).decode(thread_type, skip=attempt)
            if found is not None:
                return found
    raise AssertionError("without skipping nothing is missed")


class _Tracks:
    """The wanted streams of an open container, on one clock that starts at the container's start."""

    def __init__(
        self,
        container: InputContainer,
        name: str,
        want_video: bool,
        want_audio: bool,
        budget: MediaBudget,
        ends: dict[int, float] | None = None,
    ) -> None:
        self.container, self.name, self.budget = container, name, budget
        self.origin = (container.start_time or 0) / av.time_base
        self.video = self._require_video() if want_video else None
        self.audio = self._require_audio() if want_audio else None
        self.wanted = [stream for stream in (self.video, self.audio) if stream is not None]
        self.ends = ends or {stream.index: self._promised_end(stream) for stream in self.wanted}
        # Floats: arithmetic on av's fractions would cost as much as decoding the sound.
        self._ticks = {stream.index: seconds_of(stream.time_base) for stream in container.streams}
        self._frame_seconds = {stream.index: frame_seconds(stream) for stream in container.streams}

    def _require_video(self) -> av.VideoStream:
        stream = video_stream(self.container)
        if stream is None:
            raise MediaError(self.name, "no_video_track", "the file has no video stream")
        self._require_decoder(stream)
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = decoder_options(self.budget.max_decode_pixels)
        return stream

    def _require_audio(self) -> av.AudioStream:
        if not self.container.streams.audio:
            raise MediaError(self.name, "no_audio_track", "the file has no audio stream")
        stream = self.container.streams.audio[0]
        self._require_decoder(stream)
        self._check_rate(stream.codec_context.sample_rate)
        return stream

    def _require_decoder(self, stream: av.VideoStream | av.AudioStream) -> None:
        if stream.codec_context is None:
            raise MediaError(self.name, "undecodable", f"FFmpeg has no decoder for its {stream.type} stream")

    def _check_frame(self, frame: av.VideoFrame | av.AudioFrame) -> None:
        """Its header may not have known it, or may have lied."""
        if isinstance(frame, av.VideoFrame):
            self._check_size(frame.width, frame.height)
        else:
            self._check_rate(frame.sample_rate)

    def _check_rate(self, rate: int) -> None:
        if rate and not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise MediaError(self.name, "implausible_sound", f"{rate} samples per second")

    def _check_size(self, width: int, height: int) -> None:
        limit = self.budget.max_decode_pixels
        if width * height > limit:
            detail = f"frames of {width}x{height} = {width * height} pixels, the limit is {limit}"
            raise MediaError(self.name, "too_large", detail)

    def _promised_end(self, stream: av.VideoStream | av.AudioStream) -> float:
        """Where the header says that the stream ends, in seconds; 0.0 where it does not say."""
        if self.container.format.name == "avi" and stream.type == "video" and stream.average_rate:
            # FFmpeg fits an AVI's duration to the file's size, so only the frame count tells that a file was cut.
            return float(stream.frames / stream.average_rate)
        if is_guessed(self.container):
            return 0.0
        if stream.duration and stream.time_base:
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - self.origin
        if self.origin < 0:  # Matroska gives the time of the end, which is not the length of what begins below 0
            return 0.0
        return (self.container.duration or 0) / av.time_base

    def _packet_end(self, packet: av.Packet) -> float:
        """When the packet's content ends on screen, or 0.0 for one without a timestamp."""
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None:
            return 0.0
        index = packet.stream_index
        seconds = self._ticks[index]
        return ticks * seconds - self.origin + ((packet.duration or 0) * seconds or self._frame_seconds[index])

    def scan(self) -> tuple[dict[int, float], bool]:
        """Measures the streams' ends from packet timestamps (nothing is decoded), up to ``max_seconds``.

        Returns:
            The ends, and whether time stamps restart.
        """
        ends, continuous = dict.fromkeys(self.ends, 0.0), Continuous()
        for packet in continuous(self.container.demux(self.wanted)):
            index = packet.stream.index
            ends[index] = max(ends[index], self._packet_end(packet))
            if min(ends.values()) > self.budget.max_seconds + 2 * _CUT_SECONDS:
                break
        return ends, continuous.jumps > 0

    def decode(self, thread_type: ThreadType, *, skip: bool = True) -> _Decoded | None:
        """One pass over the packets; stops as soon as every wanted stream has what it needs.

        Args:
            thread_type: of the decoders.
            skip: leave out frames that are neither wanted nor referred to. Returns None if a wanted one then lacks.
        """
        sinks: dict[int, Any] = {}
        for stream in self.wanted:
            seconds = min(self.ends[stream.index], self.budget.max_seconds)
            if seconds <= 0:
                raise MediaError(self.name, "zero_length", f"the {stream.type} stream is empty")
            sink = _FrameSampler if stream is self.video else SoundCollector
            sinks[stream.index] = sink(seconds, self.budget)
            stream.codec_context.thread_type = thread_type
            stream.codec_context.thread_count = 1 if thread_type == "NONE" else 0
        skipper = self._skipper(sinks) if skip else None
        self._pump(sinks, skipper)
        if skipper is not None and not skipper.fits(sinks[skipper.stream.index].stamps):
            return None
        for stream in self.wanted:
            if not sinks[stream.index].frames_seen:
                raise MediaError(self.name, "undecodable", f"no {stream.type} frame of the file can be decoded")
        frames: Any = sinks[self.video.index].finish() if self.video is not None else None
        sound: Any = sinks[self.audio.index].finish() if self.audio is not None else None
        if sound is not None and (seen := flaw(sound)) is not None:
            raise MediaError(self.name, "implausible_sound", seen)
        return frames, sound, max(self.ends.values())

    def _skipper(self, sinks: Mapping[int, Any]) -> Skipper | None:
        if self.video is None or not can_skip(self.container, self.video):
            return None
        index = self.video.index
        times = sinks[index].times
        return Skipper(self.video, ticks=self._ticks[index], origin=self.origin, times=times, tie=_TIE_SECONDS)

    def _pump(self, sinks: Mapping[int, Any], skipper: Skipper | None) -> None:
        packets: Counter[int] = Counter()
        corrupt: Counter[int] = Counter()
        reached = dict.fromkeys((stream.index for stream in self.container.streams), 0.0)
        demuxed = Continuous()(self.container.demux())
        for packet in demuxed if skipper is None else skipper.packets(demuxed):
            index = packet.stream.index
            reached[index] = max(reached[index], self._packet_end(packet))
            if index not in sinks or sinks[index].done:
                continue
            packets[index] += 1
            try:
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame | av.AudioFrame)
                    self._check_frame(frame)
                    sinks[index].push(frame, None if frame.time is None else frame.time - self.origin)
            except av.FFmpegError as error:
                if isinstance(error, MemoryError):  # says nothing about the packet
                    raise
                corrupt[index] += 1
            if all(sink.done for sink in sinks.values()):
                break
        else:
            self._check_not_truncated(reached)
        for index, count in corrupt.items():
            if count > _CORRUPT_SHARE * packets[index]:
                detail = f"{count} of {packets[index]} packets of stream {index} are corrupt"
                raise MediaError(self.name, "undecodable", detail)

    def _check_not_truncated(self, reached: dict[int, float]) -> None:
        """Compares where the packets ended with the header's promise; intact files are a few frames off too."""
        for stream in self.wanted:
            promised = min(self.ends[stream.index], self.budget.max_seconds)
            # Without a duration of its own the stream was promised the container's, which any stream may fill.
            own = stream.duration or self.container.format.name == "avi"
            end = reached[stream.index] if own else max(reached.values())
            if end < 0.9 * promised - 0.25:
                detail = f"the {stream.type} ends at {end:.2f} s, its header promises {promised:.2f} s"
                raise MediaError(self.name, "truncated", detail)


class _FrameSampler:
    """Keeps the frames that are on screen at T evenly spaced times, and one more: the frame last seen."""

    def __init__(self, seconds: float, budget: MediaBudget) -> None:
        count = budget.frame_count(seconds)
        self.seconds = seconds
        self.times = [(i + 0.5) * seconds / count for i in range(count)]
        self.images: list[np.ndarray] = []
        self.frames_seen = 0
        self.stamps: list[int | None] = []  # of all frames seen
        self._budget = budget
        self._size: tuple[int, int] | None = None
        self._last: av.VideoFrame | None = None
        self._reformatter = VideoReformatter()  # a frame's own would plan the conversion anew for each

    @property
    def done(self) -> bool:
        return len(self.images) == len(self.times)

    def push(self, frame: av.VideoFrame, time: float | None) -> None:
        """Takes the next frame in display order; a frame without a timestamp is taken to follow at once."""
        shown = self._last or frame  # the first frame also stands for the time before it
        self._last = frame
        self.frames_seen += 1
        self.stamps.append(frame.pts)
        if time is not None:
            self._fill(shown, time - _TIE_SECONDS)

    def finish(self) -> _FrameSampler:
        """The last frame stands until the end."""
        assert self._last is not None
        self._fill(self._last, math.inf)
        return self

    def _fill(self, frame: av.VideoFrame, until: float) -> None:
        image = None
        while not self.done and self.times[len(self.images)] < until:
            image = self._to_rgb(frame) if image is None else image
            self.images.append(image)

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        if self._size is None:  # set once: a stream that changes its resolution still gives one array
            self._size = fit_within(frame.width, frame.height, self._budget.max_pixels)
        width, height = self._size
        image = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC")
        return np.rot90(
            image.to_ndarray(), round(frame.rotation / 90) % 4
        )  # phones film sideways and note the rotation
