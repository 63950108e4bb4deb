"""The child of :class:`mosear.data.decode_process.DecodeProcess`: answers requests on stdin until its parent is gone.

A message is a length (4 bytes, big-endian) and JSON; the bytes of arrays follow the JSON that announces them. Nothing
is pickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mosear.data.budget import MediaBudget
from mosear.data.container import OUT_OF_MEMORY, MediaError
from mosear.data.media import decode, probe

LENGTH = struct.Struct(">I")
GRACE_SECONDS = 5.0
"""The parent ends a child that is too slow; the kernel does so much later, in case the parent is gone."""
LOOK_SECONDS = 0.5


def main() -> None:
    """``python -m mosear.data.decode_child PARENT BYTES``: process id of the parent, and memory to decode with."""
    parent, memory = map(int, sys.argv[1:])
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)  # schedulers signal every process of a job; the parent decides
    replies = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not come between the replies
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    exceeded = _bound_memory(memory)
    with contextlib.suppress(BrokenPipeError):
        _send(replies, {"ready": True})
        while (request := _received()) is not None:
            signal.setitimer(signal.ITIMER_REAL, request["seconds"] + GRACE_SECONDS)  # its signal ends the process
            reply, arrays = _answer(request)
            if exceeded():  # decoders do not always tell: some call a packet corrupt for which they lack memory
                reply, arrays = {"error": [None, "out_of_memory", OUT_OF_MEMORY]}, []
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(replies, reply, arrays)


def _end_with(parent: int) -> None:
    """The end of stdin does not always tell: processes that the parent forked hold the other end open."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _bound_memory(extra: int) -> Callable[[], bool]:
    """A wall behind the bound, and a function that says whether the bound was ever passed (both on Linux alone)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not os.path.exists("/proc/self/status"):
        return lambda: False
    bound = _address_space("VmSize") + extra
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wall = bound + extra // 2
    resource.setrlimit(resource.RLIMIT_AS, (wall if hard == resource.RLIM_INFINITY else min(wall, hard), hard))
    return lambda: _address_space("VmPeak") > bound


def _address_space(name: str) -> int:
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


def _received() -> dict[str, Any] | None:
    length = sys.stdin.buffer.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    request: dict[str, Any] = json.loads(sys.stdin.buffer.read(*LENGTH.unpack(length)))
    return request


def _answer(request: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    try:
        if request["call"] == "probe":
            return {"info": vars(probe(request["source"]))}, []
        media = decode(request["video"], request["audio"], MediaBudget(**request["budget"]))
    except MediaError as error:
        return {"error": [error.path, error.cause, error.detail]}, []
    except MemoryError:
        return {"error": [None, "out_of_memory", OUT_OF_MEMORY]}, []
    except Exception as error:
        return {"error": [None, "undecodable", f"the decoder raised {type(error).__name__}: {error}"]}, []
    found: dict[str, Any] = {"fps": media.fps, "duration": media.duration, "cut": media.cut}
    found["frames"] = None if media.frames is None else media.frames.shape
    found["audio"] = None if media.audio is None else len(media.audio)
    return {"media": found}, [array for array in (media.frames, media.audio) if array is not None]


def _send(replies: int, reply: Mapping[str, Any], arrays: list[np.ndarray] | None = None) -> None:
    content = json.dumps(reply).encode()
    parts = [memoryview(LENGTH.pack(len(content)) + content)]
    for view in parts + [bytes_of(array) for array in arrays or []]:
        while view:
            view = view[os.write(replies, view) :]


def bytes_of(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


if __name__ == "__main__":
    main()
