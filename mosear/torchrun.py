"""What the processes of one torchrun settle before torch has connected them: one start time, one log each, turns.

torchrun gives its workers a key-value store (its own rendezvous store, on ``MASTER_ADDR:MASTER_PORT``). It outlives
workers that are started again, so a restarted job finds the run directory of its first start. Without torchrun nothing
is imported and nothing happens.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, NoReturn

PREFIX = "mosear"
PATIENCE = timedelta(hours=12)
"""Longest wait for the first process, which may render a corpus."""
REPORT = timedelta(seconds=30)
"""Longest wait for the first process to report that it refuses to start."""
GRACE = 5.0
"""The same in seconds where processes share no store."""


def launched_world() -> int:
    """Number of processes that a launcher has announced; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


@cache
def launch_store() -> Any:
    """torchrun's key-value store; ``None`` for a process on its own."""
    if launched_world() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import PrefixStore, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore(PREFIX, TCPStore(address, port, is_master=False, timeout=PATIENCE))


def store_of_this_start(timeout: timedelta) -> Any:
    """torchrun's store under a name that no earlier start of the job has used; ``None`` without torchrun.

    torch connects processes through fixed keys of that store. After a restart a worker could find the address of one
    that was killed, and would wait for it until the timeout (pytorch/pytorch issue 135712). torchrun's count of
    restarts is no name, since each machine counts its own. So the first process draws one and tells whoever asks; who
    asks draws a name for the answer, which only a living process gives.

    Args:
        timeout: for this, and for whatever the store is used for later.

    Raises:
        TimeoutError: if a process has not asked, or no answer came.
    """
    keys = launch_store()
    if keys is None:
        return None
    from torch.distributed import PrefixStore, TCPStore

    rank, own, end = launched_rank(), uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank == 0:
        name, silent = own, set(range(1, launched_world()))
        while silent:
            for other in sorted(silent):
                if keys.check([f"ask/{other}"]):
                    keys.set(f"answer/{keys.get(f'ask/{other}').decode()}", name)
                if keys.check([f"heard/{name}/{other}"]):
                    silent.remove(other)
            if silent and time.monotonic() > end:
                raise TimeoutError(f"Processes {sorted(silent)} of {launched_world()} were not there within {timeout}.")
            time.sleep(0.02)
    else:
        keys.set(f"ask/{rank}", own)
        try:
            keys.wait([f"answer/{own}"], timeout)
        except RuntimeError as error:  # torch's DistStoreError
            raise TimeoutError(f"Process 0 did not answer process {rank} within {timeout}.") from error
        name = keys.get(f"answer/{own}").decode()
        keys.set(f"heard/{name}/{rank}", "yes")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore(f"{PREFIX}/{name}", TCPStore(address, port, is_master=False, timeout=timeout))


@cache
def start_time() -> float:
    """When the run began, in seconds since the epoch: the same on all its processes."""
    now, store = repr(time.time()), launch_store()
    return float(now if store is None else store.compare_set("start", "", now))


def started(pattern: str) -> str:
    """:func:`start_time` in local time; ``${started:%Y-%m-%d}`` in a config."""
    return time.strftime(pattern, time.localtime(start_time()))


def log_name() -> str:
    """``run.log``, or ``run.rank3.log`` for a process other than the first; ``${run_log:}`` in a config."""
    rank = launched_rank()
    return "run.log" if rank == 0 else f"run.rank{rank}.log"


MISTAKE = 2
"""Exit status after a mistake that the user can mend."""


def end_with(message: str) -> NoReturn:
    """End the program with a message on stderr; among several processes it is settled who prints it."""
    if launched_world() > 1:
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.exit(MISTAKE)


@contextmanager
def first_reports() -> Iterator[None]:
    """Lets the first process say why the processes refuse to start, before any of them leaves.

    A launcher ends all others as soon as one has left, often before they have spoken, and may show the first one's
    output alone. So another process leaves when the first has said the same. If it does not say so (its machine may
    have what this one lacks), the process speaks for itself. Meant are exits by :class:`SystemExit` before
    :func:`processes_start` is called.
    """
    try:
        yield
    except SystemExit as left:
        if _started.is_set() or launched_world() == 1 or left.code in (None, 0):
            raise
        message = left.code if isinstance(left.code, str) else ""  # a number: it has been printed already
        if launched_rank() == 0:
            print(message, file=sys.stderr, end="\n" if message else "", flush=True)
            _refusal_is_said(message)
        elif not _first_has_said(message) and message:
            print(f"process {launched_rank()} of {launched_world()}: {message}", file=sys.stderr, flush=True)
        raise SystemExit(1 if message else left.code) from None


_started = threading.Event()


def processes_start() -> None:
    """Nothing refuses to start any more: from now on a process that leaves does not wait for the first one."""
    _started.set()


def _refusal(message: str) -> str:
    return f"refused/{hashlib.sha256(message.encode()).hexdigest()}"


def _refusal_is_said(message: str) -> None:
    if (store := launch_store()) is not None:
        store.set(_refusal(message), "yes")


def _first_has_said(message: str) -> bool:
    store = launch_store()
    if store is None:
        time.sleep(GRACE)
        return False
    end = time.monotonic() + REPORT.total_seconds()
    try:
        while not (said := store.check([_refusal(message)])) and time.monotonic() < end:
            time.sleep(0.1)
    except RuntimeError:  # torch's DistError: the store's machine has left
        return False
    return bool(said)


@contextmanager
def in_turn(name: str) -> Iterator[None]:
    """Runs a block on the first process, then on the first of each other machine, then on all others.

    Work that finds its files there does nothing, so shared and separate disks are both served once.

    Args:
        name: of the work; a job that was started again does not wait for what is done.
    """
    store = launch_store()
    if store is None:
        yield
        return
    rank, local = launched_rank(), int(os.environ.get("LOCAL_RANK", "0"))
    machine = f"{name}/{os.environ.get('GROUP_RANK', '0')}"
    if rank:
        store.wait([f"{name}/first"], PATIENCE)
    if local:
        store.wait([machine], PATIENCE)
    yield
    if not rank:
        store.set(f"{name}/first", "done")
    if not local:
        store.set(machine, "done")
