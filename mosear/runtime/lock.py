"""One run per run directory: two would mix their logs and sweep away each other's checkpoints."""

from __future__ import annotations

import json
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mosear.torchrun import launched_rank

log = logging.getLogger(__name__)

LOCK = "run.lock"
Flow = Callable[[DictConfig], dict[str, Any]]


class RunDirectoryInUseError(RuntimeError):
    """Another run works in the run directory."""


def alone_in_run_directory(flow: Flow) -> Flow:
    """A flow that works with ``cfg.run_dir`` locked."""

    @wraps(flow)
    def locked(cfg: DictConfig) -> dict[str, Any]:
        with run_directory(Path(cfg.run_dir)):
            return flow(cfg)

    return locked


@contextmanager
def run_directory(directory: Path) -> Iterator[None]:
    """Locks a run directory for a block. Of the processes of a run the first one does so.

    The lock is a file that says which process made it. One that was left behind is taken over: its process is gone from
    this machine, or it was of an earlier start of this very SLURM job.

    Raises:
        RunDirectoryInUseError: if another run holds it.
    """
    if launched_rank() != 0:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    path, own = directory / LOCK, json.dumps(_this_process())
    while not _created(path, own):
        _take_over(path)
    try:
        yield
    finally:
        if _content(path) == own and json.loads(own)["pid"] == os.getpid():
            path.unlink(missing_ok=True)


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": _start_of(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def _created(path: Path, content: str) -> bool:
    """Creates the file with its content, or does nothing if it is there."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    return True


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _take_over(path: Path) -> None:
    """Removes a lock that was left behind.

    Raises:
        RunDirectoryInUseError: if its owner may be alive.
    """
    content = _content(path)
    if content is None:
        return
    if not _left_behind(content):
        owner = _owner(content)
        who = f"process {owner['pid']} on {owner['host']}" if owner else "a process that it does not name"
        raise RunDirectoryInUseError(
            f"Another run works in {path.parent}: {who} holds {path.name}. Wait until it has ended, or give this run a "
            f"directory of its own (hydra.run.dir=...). If that run is gone, delete {path} and start again."
        )
    aside = path.with_name(f".{LOCK}-{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _content(aside) == content:
        log.info("Taking over %s, which a run that has ended left behind.", path)
    else:  # another process was faster and has its own lock there
        _created(path, _content(aside) or "")
    aside.unlink()


def _owner(content: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and {"pid", "host"} <= found.keys() else {}


def _left_behind(content: str) -> bool:
    owner, own = _owner(content), _this_process()
    if not owner:
        return False
    if owner["host"] == own["host"]:
        # A process number comes back after a restart of the machine, or in a container.
        return owner["pid"] == own["pid"] or not _alive(owner["pid"]) or _start_of(owner["pid"]) != owner["started"]
    return own["job"] is not None and owner.get("job") == own["job"]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_of(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; ``None`` where the system does not say, or the process has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else fields[18]
    except (OSError, IndexError, ValueError):
        return None
