"""Decodes media files in a process of its own, so that a file can end that process and never the job.

    with DecodeProcess(DecodeLimits(seconds=20)) as decoder:
        media = decoder.decode(path, "video", budget)

FFmpeg is written in C: a file that it does not survive ends the process that decodes, and one that it cannot finish
holds it for ever. Here that process is a child with bounds on time and memory. What happens to it becomes a
:class:`MediaError` that names the file, and the next file gets a new child. Arrays are those of
:func:`mosear.data.media.decode`, to the last bit.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mosear.data.container import MediaError
from mosear.data.decode_child import LENGTH, bytes_of
from mosear.data.media import Media, MediaBudget, MediaInfo, check_wanted, decode, probe
from mosear.settings import Positive, settings

File = Path | str

START_SECONDS = 300.0
"""For the child to import its libraries, perhaps from a slow disk that many processes read at once."""
_LONGEST_HEADER = 2**20
_PIPE_BYTES = 2**20


@settings
@dataclass(frozen=True)
class DecodeLimits:
    """What the decoding of one file may take.

    Args:
        seconds: Of waiting for it.
        memory_gb: GiB of address space beyond what the libraries take. On Linux alone: macOS has no such limit.
    """

    seconds: Positive = 120.0
    memory_gb: Positive = 4.0


@settings
@dataclass(frozen=True)
class Decoding(DecodeLimits):
    """Where files are decoded, and what one may take.

    Args:
        mode: ``process``: in a child of the process that asks, which a file may end. ``inline``: in the process that
            asks, without limits; a file that FFmpeg does not survive ends the job.
    """

    mode: Literal["inline", "process"] = "process"

    def decoder(self) -> Decoder:
        """Decodes as these settings say."""
        return DecodeProcess(DecodeLimits(self.seconds, self.memory_gb)) if self.mode == "process" else InlineDecoder()


class Decoder(Protocol):
    """Reads headers and decodes clips. Its methods are :func:`mosear.data.media.probe` and ``decode``."""

    def probe(self, source: File) -> MediaInfo:
        """What a file's header says."""

    def decode(self, video: File | None, audio: File | Literal["video"] | None, budget: MediaBudget | None) -> Media:
        """One clip."""

    def close(self) -> None:
        """Gives back what decoding took."""


class InlineDecoder:
    """Decodes in the calling process."""

    def probe(self, source: File) -> MediaInfo:
        """What a file's header says."""
        return probe(source)

    def decode(self, video: File | None, audio: File | Literal["video"] | None, budget: MediaBudget | None) -> Media:
        """One clip."""
        return decode(video, audio, budget)

    def close(self) -> None:
        """Nothing."""


class _Ended(Exception):
    """The child is gone."""


class _TooSlow(Exception):
    """The child did not answer in time."""


class DecodeProcess:
    """A child process that decodes one file after the other.

    It starts with the first file, or with :meth:`start`, and ends with :meth:`close`, with this object, or with the
    process that made it. Threads may share it and wait for each other. A copy that comes by fork or pickle, as in the
    workers of a DataLoader, starts a child of its own.

    Args:
        limits: what a file may take.
    """

    def __init__(self, limits: DecodeLimits | None = None) -> None:
        self.limits = limits or DecodeLimits()
        self._child: _Child | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def __enter__(self) -> DecodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"limits": self.limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["limits"])  # type: ignore[misc]

    @property
    def pid(self) -> int | None:
        """Of the child, if one lives."""
        child = self._child
        return child.process.pid if child is not None and child.lives() else None

    def start(self) -> None:
        """Starts the child without waiting for it, so that the first file need not."""
        self._after_fork()
        with self._lock:
            self._living_child()

    def close(self) -> None:
        """Ends the child at once. The object can still be used: another file starts another child."""
        self._after_fork()
        with self._lock:
            self._drop()

    def probe(self, source: File) -> MediaInfo:
        """:func:`mosear.data.media.probe` in the child.

        Raises:
            MediaError: as there; or the child died, was too slow or wanted too much memory.
        """
        reply, _ = self._ask({"call": "probe", "source": os.fspath(source)}, os.fspath(source), _no_arrays)
        return MediaInfo(**reply["info"])

    def decode(
        self, video: File | None, audio: File | Literal["video"] | None, budget: MediaBudget | None = None
    ) -> Media:
        """:func:`mosear.data.media.decode` in the child.

        Raises:
            MediaError: as there; or the child died, was too slow or wanted too much memory.
        """
        check_wanted(video, audio)
        budget = budget or MediaBudget()
        files = [os.fspath(file) if file is not None else None for file in (video, audio)]
        named = " and ".join(file for file in files if file is not None and (file is files[0] or audio != "video"))
        request = {"call": "decode", "video": files[0], "audio": files[1], "budget": asdict(budget)}
        reply, arrays = self._ask(request, named, lambda reply: _empty_arrays(reply["media"], budget))
        found = reply["media"]
        return Media(arrays["frames"], found["fps"], arrays["audio"], found["duration"], found["cut"])

    def _ask(self, request: dict[str, Any], named: str, arrays_of: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self._after_fork()
        with self._lock:
            child = self._living_child()
            try:
                reply, arrays = child.ask(request | {"seconds": self.limits.seconds}, self.limits.seconds, arrays_of)
            except _TooSlow:
                self._drop()
                raise MediaError(named, "too_slow", f"it took longer than {self.limits.seconds:g} s") from None
            except _Ended:
                told = child.end()
                self._drop()
                raise MediaError(named, "decoder_died", f"the process that decoded it {told}") from None
            except BaseException:  # an interrupt: the child's answer would be taken for that to the next request
                self._drop()
                raise
            if "error" in reply:
                path, cause, detail = reply["error"]
                if cause == "out_of_memory":  # what is left of its memory is in pieces
                    self._drop()
                raise MediaError(path or named, cause, detail)
            return reply, arrays

    def _living_child(self) -> _Child:
        if self._child is not None and not self._child.lives():  # killed while it had nothing to do
            self._drop()
        if self._child is None:
            self._child = _Child(self.limits)
            self._finalizer = weakref.finalize(self, _Child.end, self._child)
        return self._child

    def _drop(self) -> None:
        if self._child is not None:
            self._finalizer.detach()
            self._child.end()
            self._child = None

    def _after_fork(self) -> None:
        if self._owner != os.getpid():
            self._lock, self._owner = threading.Lock(), os.getpid()
            self._drop()


class _Child:
    """The process and its pipes."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.owner = os.getpid()
        package = str(Path(__file__).parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mosear.data.decode_child", str(self.owner), str(round(limits.memory_gb * 2**30))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # One arena: glibc reserves address space for more, which is not memory that a file takes.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MALLOC_ARENA_MAX": "1"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.replies = self.process.stdin, self.process.stdout
        with contextlib.suppress(OSError, AttributeError):  # fewer changes between the two processes, where allowed
            fcntl.fcntl(self.replies, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._ready = False
        self._poll = select.poll()
        self._poll.register(self.replies, select.POLLIN)

    def lives(self) -> bool:
        """Whether it can be asked."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, request: Mapping[str, Any], seconds: float, arrays_of: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The reply to one request, with the arrays that come with it.

        Raises:
            _TooSlow: there is none within so many seconds.
            _Ended: there is none any more.
        """
        if not self._ready:
            self._wait_for_start()
        deadline = time.monotonic() + seconds
        content = json.dumps(request).encode()
        try:
            self.requests.write(LENGTH.pack(len(content)) + content)
        except BrokenPipeError:
            raise _Ended from None
        reply = self._header(deadline)
        arrays: dict[str, np.ndarray | None] = {} if "error" in reply else arrays_of(reply)
        for array in arrays.values():
            if array is not None:
                self._fill(bytes_of(array), deadline)
        return reply, arrays

    def _wait_for_start(self) -> None:
        try:
            self._header(time.monotonic() + START_SECONDS)
        except (_Ended, _TooSlow):
            raise RuntimeError(
                f"The process that decodes media could not start ({self.end()}): what it printed stands above. "
                "data.decode.mode=inline does without it."
            ) from None
        self._ready = True

    def _header(self, deadline: float) -> dict[str, Any]:
        length = bytearray(LENGTH.size)
        self._fill(memoryview(length), deadline)
        (size,) = LENGTH.unpack(length)
        if size > _LONGEST_HEADER:  # it writes over its own memory
            raise _Ended
        content = bytearray(size)
        self._fill(memoryview(content), deadline)
        try:
            reply: dict[str, Any] = json.loads(content)
        except ValueError:
            raise _Ended from None
        return reply

    def _fill(self, view: memoryview, deadline: float) -> None:
        while view:
            left = deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(1000 * left):
                raise _TooSlow
            count = os.readv(self.replies.fileno(), [view])
            if not count:
                raise _Ended
            view = view[count:]

    def end(self) -> str:
        """Kills it, if it is ours and still lives, and says how it ended."""
        if self.owner != os.getpid():  # a copy by fork: the child belongs to the process before
            self.process.returncode = 0
        elif self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.requests.close()
        self.replies.close()
        code = self.process.returncode
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _no_arrays(reply: Mapping[str, Any]) -> dict[str, np.ndarray | None]:
    return {}


def _empty_arrays(media: Mapping[str, Any], budget: MediaBudget) -> dict[str, np.ndarray | None]:
    """Room for what a reply announces; a child that a file has broken may announce anything."""
    shape, samples = media["frames"], media["audio"]
    if shape is not None:
        count, height, width, colours = shape
        if count > budget.max_frames or colours != 3 or not 0 < height * width <= budget.max_pixels:
            raise _Ended
    if samples is not None and not 0 <= samples <= budget.max_seconds * budget.audio_rate + 1:
        raise _Ended
    return {
        "frames": None if shape is None else np.empty(shape, np.uint8),
        "audio": None if samples is None else np.empty(samples, np.float32),
    }
