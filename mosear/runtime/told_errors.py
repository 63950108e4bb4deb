"""Errors that a user can mend end a command as a message, not as a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mosear.torchrun import launched_world

STATUS = 2
LOST_WORKER = (
    "Such a process reads clips. Either the machine has too little memory for data.num_workers of them, or FFmpeg did "
    "not survive a media file: data.decode.mode=process names that file and goes on."
)


@contextmanager
def told_errors() -> Iterator[None]:
    """Configs, manifests, labels and media that cannot be used: their own sentence on stderr, exit status 2."""
    try:
        yield
    except Exception as error:
        if _is_of_a_lost_worker(error):
            said = f"{str(error).strip(' .')}. {LOST_WORKER}"
        elif isinstance(error, _of_users()):
            # A loader's worker hands an error over as its whole traceback, at whose end the sentence stands.
            said = str(error).rpartition("BadClipError: ")[2].strip()
        else:
            raise
        if launched_world() > 1:
            sys.exit(said)  # who prints it is settled among the processes
        print(said, file=sys.stderr)
        sys.exit(STATUS)


def _is_of_a_lost_worker(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def _of_users() -> tuple[type[Exception], ...]:
    # Here, not above: they come with torch, and a message about a key should not wait for it.
    from mosear.data.container import MediaError
    from mosear.data.dataset import BadClipError
    from mosear.data.rows import ManifestError
    from mosear.problems import ConfigError
    from mosear.runtime.adapter_files import AdapterError
    from mosear.runtime.lock import RunDirectoryInUseError

    return ConfigError, ManifestError, MediaError, BadClipError, AdapterError, RunDirectoryInUseError
