"""Errors that a user can mend end a command as a message, not as a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

STATUS = 2


@contextmanager
def told_errors() -> Iterator[None]:
    """Configs, manifests, labels and media that cannot be used: their own sentence on stderr, exit status 2."""
    from mosear.data.container import MediaError
    from mosear.data.dataset import BadClipError
    from mosear.data.rows import ManifestError
    from mosear.problems import ConfigError
    from mosear.runtime.lock import RunDirectoryInUseError
    from mosear.torchrun import launched_world

    try:
        yield
    except (ConfigError, ManifestError, MediaError, BadClipError, RunDirectoryInUseError) as error:
        # A loader's worker hands an error over as its whole traceback, at whose end the sentence stands.
        said = str(error).rpartition(f"{BadClipError.__name__}: ")[2].strip()
        if launched_world() > 1:
            sys.exit(said)  # who prints it is settled among the processes
        print(said, file=sys.stderr)
        sys.exit(STATUS)
