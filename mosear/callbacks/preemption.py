"""A process that is asked to stop saves what it has done, and exits with a code that schedulers requeue on."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lightning import LightningModule, Trainer

from mosear.callbacks.base import RunCallback
from mosear.methods.processes import anywhere

if TYPE_CHECKING:
    from mosear.callbacks.checkpoint_files import Note

log = logging.getLogger(__name__)

REQUEUE = os.EX_TEMPFAIL
"""Exit code of a run that should be started again (75, "temporary failure"; see docs/resuming.md for schedulers)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def leave(*_: object) -> None:
    """Exit with :data:`REQUEUE`; also a signal handler."""
    log.warning("Asked to stop: exit code %d. Start again with resume=auto to go on.", REQUEUE)
    raise SystemExit(REQUEUE)


def leave_when_asked() -> None:
    """On a signal, exit at once: for times in which nothing can be saved, or all is saved already."""
    _listen(leave)


def _listen(handler: Callable[[int, FrameType | None], object]) -> None:
    if threading.current_thread() is threading.main_thread():  # Python allows no other to set handlers
        for signum in SIGNALS:
            signal.signal(signum, handler)


@contextmanager
def signals_as_before() -> Iterator[None]:
    """Puts the handlers back that were there; also a decorator."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in before.items():
                signal.signal(signum, handler)


class Preemption(RunCallback):
    """On SIGTERM or SIGUSR1, training ends after the current step with a checkpoint and exit code :data:`REQUEUE`.

    ``ResumableCheckpoint`` asks :func:`asked_to_stop` at the start of every step. In a validation the process leaves
    before the next batch (the checkpoint before the last step is there); in a test, or before training, at once.
    """

    def __init__(self) -> None:
        self.requested = False

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True

    def on_run_start(self, settings: Mapping[str, Any], resumed: tuple[Path, Note] | None) -> None:
        """Until training begins there is nothing to save."""
        leave_when_asked()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen. Lightning has put its own handlers in place by now, which neither save nor agree."""
        _listen(self._request)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test has nothing to save."""
        leave_when_asked()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leave without asking the others, whose validations may be shorter: all of them are signalled."""
        if self.requested:
            leave()


def asked_to_stop(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether any process was asked to stop. All processes call it together, and get the same answer."""
    own = [callback.requested for callback in trainer.callbacks if isinstance(callback, Preemption)]  # type: ignore[attr-defined]
    return bool(own) and anywhere(any(own), pl_module.device)
