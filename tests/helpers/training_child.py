"""Whole training runs in processes of their own that a test can kill.

python -m tests.helpers.training_child LOG OVERRIDE ...
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from mosear.runtime import flows
from mosear.runtime.checks import check_training
from tests.helpers.processes import Process

ROOT = Path(__file__).parents[2]


class Interruption(Callback):
    """Sends a signal to its own process, once.

    Args:
        step: optimiser steps done before.
        where: ``step`` = in the middle of a step, between gradients and update; ``write`` = while a checkpoint is
            written, ``delay`` seconds after that began; ``validation``; ``test``. ``disk_full`` sends nothing: from
            here on, no file can grow beyond 200 kB.
        signum: by name.
        delay: see ``where``.
        rank: the process that is meant.
        unless: a file that is created, and whose presence prevents a second time.
    """

    def __init__(
        self,
        step: int,
        where: str = "step",
        signum: str = "SIGKILL",
        delay: float = 0.0,
        rank: int = 0,
        unless: str | None = None,
    ) -> None:
        self.step, self.where, self.signum, self.delay = step, where, signal.Signals[signum], delay
        self.rank, self.unless = rank, unless

    def _send(self, trainer: Trainer, where: str) -> None:
        if where == self.where and trainer.global_step >= self.step and trainer.global_rank == self.rank:
            self.where = "done"
            if self.unless is not None:
                if Path(self.unless).exists():
                    return
                Path(self.unless).touch()
            os.kill(os.getpid(), self.signum)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self._send(trainer, "step")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.where == "disk_full" and trainer.global_step >= self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self._send(trainer, "validation")

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self._send(trainer, "test")

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        if self.where == "write" and trainer.global_step >= self.step:
            self.where = "done"
            threading.Timer(self.delay, os.kill, (os.getpid(), self.signum)).start()


def run_training(overrides: list[str], log: str) -> None:
    """What train.py does, with Hydra's composition alone."""
    from hydra import compose, initialize_config_dir

    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    import logging

    logging.basicConfig(level=logging.INFO, force=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    check_training(cfg)
    flows.train(cfg)


class TrainingRuns:
    """Starts runs in one run directory after the other."""

    def __init__(self, common: list[str]) -> None:
        self.common = common

    def __call__(self, run_dir: Path, *overrides: str, signum: int | None = None, after: float = 0.0) -> int:
        """Run to the end; returns the exit code (negative: the signal that ended it)."""
        run_dir.mkdir(parents=True, exist_ok=True)
        arguments = [*self.common, f"run_dir={run_dir}", *overrides]
        child = Process(["-m", "tests.helpers.training_child", run_dir / "output.txt", *arguments])
        if signum is not None:
            time.sleep(after)
            child.send_signal(signum)
        child.communicate(1800)
        return child.wait()


def interruption(**settings: Any) -> list[str]:
    """Overrides that add an :class:`Interruption`."""
    target = "+callbacks.interruption._target_=tests.helpers.training_child.Interruption"
    return [target, *(f"+callbacks.interruption.{name}={value}" for name, value in settings.items())]


def random_interruption(rng: random.Random, last_step: int) -> list[str]:
    """Somewhere in a run: in a step, in a write, in a validation."""
    where = rng.choice(["step", "step", "write", "validation"])
    return interruption(step=rng.randrange(last_step), where=where, delay=round(rng.uniform(0, 0.05), 4))


if __name__ == "__main__":
    run_training(sys.argv[2:], sys.argv[1])
