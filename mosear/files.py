"""Files that appear whole or not at all, and what is in them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path


@contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it is moved into place at the end, and removed if anything fails.

    The name is drawn here instead of by ``tempfile``, whose files other users of a shared directory could not read.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A fresh directory beside ``target`` to write to; it takes the place of ``target`` at the end.

    A reader never sees half a directory, and a failure leaves what was there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging, old = (target.with_name(f".{target.name}.{uuid.uuid4().hex}.{part}") for part in ("new", "old"))
    staging.mkdir()
    try:
        yield staging
        if target.exists():
            os.replace(target, old)
        os.replace(staging, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def os_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises what a library says about the system (``... (os error 28)``) as the :class:`OSError` that it is."""
    try:
        yield
    except Exception as error:
        code = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of a file's content, read now."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(path: Path) -> str:
    """:func:`sha256_of`, read once per process as long as the file's size and time stay."""
    stat = path.stat()
    return _hash_of(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _hash_of(path: str, size: int, modified: int) -> str:
    return sha256_of(path)
