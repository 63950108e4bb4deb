"""Errors that a user can mend end a command as a message, not as a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mosear.torchrun import end_with

SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EFBIG)
"""What a system says about files that may not be written or read, and about disks that are full."""
LOST_WORKER = (
    "Such a process reads clips. Either the machine has too little memory for data.num_workers of them, or FFmpeg did "
    "not survive a media file: data.decode.mode=process names that file and goes on."
)


class JobFailed(Exception):
    """A job of a multirun ended with this sentence, which has been printed; the other jobs are to run."""


@contextmanager
def told_errors() -> Iterator[None]:
    """Configs, manifests, labels, media and disks that cannot be used: a sentence on stderr, exit status 2.

    Raises:
        SystemExit: where the program is one run.
        JobFailed: where it is a job of a multirun.
    """
    try:
        yield
    except Exception as error:
        if _is_of_a_lost_worker(error):
            _end(f"{str(error).strip(' .')}. {LOST_WORKER}")
        if isinstance(error, _of_users()):
            # A loader's worker hands an error over as its whole traceback, at whose end the sentence stands.
            _end(str(error).rpartition("BadClipError: ")[2].strip())
        if isinstance(error, OSError) and error.errno in SYSTEM:
            _end(
                f"The system refuses: {error}. Make room, or name a directory that may be used: hydra.run.dir=DIR for "
                "results, data_dir=DIR for the rendered corpus and the cache."
            )
        raise


def _end(message: str) -> NoReturn:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        print(message, file=sys.stderr)
        raise JobFailed(message)
    end_with(message)


def _is_of_a_lost_worker(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def _of_users() -> tuple[type[Exception], ...]:
    # Here, not above: they come with torch, and a message about a key should not wait for it.
    from mosear.callbacks.checkpoint_files import CheckpointError
    from mosear.callbacks.loss_guard import BadLossError
    from mosear.data.container import MediaError
    from mosear.data.dataset import BadClipError
    from mosear.data.rows import ManifestError
    from mosear.problems import ConfigError
    from mosear.runtime.adapter_files import AdapterError
    from mosear.runtime.lock import RunDirectoryInUseError

    return (
        ConfigError, ManifestError, MediaError, BadClipError, AdapterError, RunDirectoryInUseError, BadLossError,
        CheckpointError,
    )  # fmt: skip
