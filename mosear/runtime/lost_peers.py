"""What a process says when the others no longer answer."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from mosear.torchrun import launched_rank, launched_world

# What gloo, NCCL and torch's store say when a peer or the way to it is gone.
_SIGNS = re.compile(
    r"timed out waiting|connection (closed|reset|refused)|no route to host|network is unreachable|broken pipe"
    r"|watchdog|nccl (remote|system) error|wait timeout|failed to recv",
    re.IGNORECASE,
)


class LostPeersError(RuntimeError):
    """Other processes of the job no longer answer."""


@contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Turns a backend's error about silent peers into a :class:`LostPeersError` that says what to do.

    Errors of a process on its own, and others, pass as they are.
    """
    try:
        yield
    except RuntimeError as error:
        if launched_world() == 1 or isinstance(error, LostPeersError) or not _SIGNS.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0]
        raise LostPeersError(
            f"Process {launched_rank()} of {launched_world()} (on {socket.gethostname()}) has lost contact with the "
            f"others: {reason} Look at the log of the process that failed first, or at the network between the "
            "machines; then start the same command again with resume=auto to go on from the last checkpoint."
        ) from error
