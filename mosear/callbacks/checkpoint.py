"""Checkpoints from which a run goes on bit by bit."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mosear.callbacks import checkpoint_files as files
from mosear.callbacks.base import RunCallback
from mosear.callbacks.checkpoint_files import CheckpointError, Note
from mosear.callbacks.checkpoint_state import (
    StagedIO,
    data_fingerprint,
    keep_csv_log,
    random_state,
    restore_csv_log,
    restore_random_state,
    save_tensors,
)
from mosear.callbacks.preemption import asked_to_stop, leave
from mosear.data.loader import ResumableLoader

log = logging.getLogger(__name__)

LIBRARIES = ("mosear", "torch", "transformers", "peft", "lightning")


class ResumableCheckpoint(Checkpoint, RunCallback):
    """Writes checkpoints, and puts the state back when a run is resumed.

    State is taken at ONE place, the start of an optimiser step, after everything that belongs to the steps before it
    (validation included), and it is put back at the same place. So whatever lies between, in the first run and in the
    resumed one, cannot make a difference. The last checkpoint, at the end of training, is marked as finished.

    Args:
        directory: where they go.
        every_n_steps: optimiser steps between two; at most so many are done again after a crash. Others come at the
            start of every epoch, before the last step ahead of a validation (a job that is stopped in a long
            validation loses one step), and when the process is asked to stop.
        keep: how many of the newest stay.
    """

    def __init__(self, directory: str, *, every_n_steps: int = 100, keep: int = 2) -> None:
        if every_n_steps < 1 or keep < 1:
            raise ValueError(f"every_n_steps={every_n_steps} and keep={keep} must be at least 1.")
        self.directory, self.every_n_steps, self.keep = Path(directory), every_n_steps, keep
        self.settings: Mapping[str, Any] = {}
        self.resumed: tuple[Path, Note] | None = None
        self._pending: dict[str, Any] | None = None
        self._data = ""
        self._newest: int | None = None

    def on_run_start(self, settings: Mapping[str, Any], resumed: tuple[Path, Note] | None) -> None:
        """What the next checkpoints are of, and from which one this run goes on."""
        self.settings, self.resumed = settings, resumed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read what this process kept, and let the log say what it said then."""
        if stage != "fit":
            return
        if type(trainer.strategy.checkpoint_io) is not StagedIO and hasattr(trainer.strategy, "checkpoint_io"):
            trainer.strategy.checkpoint_io = StagedIO()
        self._data = data_fingerprint(trainer)
        if self.resumed is None:
            return
        directory, note = self.resumed
        if note.world_size != trainer.world_size:
            raise CheckpointError(
                f"{directory} was written by {note.world_size} process(es), and this run has {trainer.world_size}: "
                f"batches would be other ones. Start {note.world_size}, or start a new run from the adapter."
            )
        if note.data != self._data:
            raise CheckpointError(
                f"{directory} was trained on other clips than data.train now lists (ids or labels differ). Resume on "
                "the same manifest, or start a new run."
            )
        self._pending = torch.load(directory / files.rank_file(trainer.global_rank), weights_only=True)
        self._newest = note.step
        if trainer.is_global_zero:
            restore_csv_log(trainer, directory)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In a resumed run, data begin where the checkpoint was taken."""
        loader = trainer.train_dataloader
        if self.resumed is not None and isinstance(loader, ResumableLoader):
            # Lightning counts the steps of an epoch before it knows where a run goes on, so its iterator is at the
            # beginning of the first epoch.
            loader.start_at(trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.completed)
            iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the state back if this is the first step of a resumed run; write a checkpoint if one is due."""
        if self._pending is not None:
            self._restore(trainer, pl_module, batch_idx)
        if batch_idx % trainer.accumulate_grad_batches:
            return
        stop = asked_to_stop(trainer, pl_module)
        if trainer.global_step != self._newest and (stop or self._due(trainer, batch_idx)):
            self.save(trainer, pl_module)
        if stop:
            leave()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over: a resumed run goes straight to the test."""
        self.save(trainer, pl_module, finished=True)
        if asked_to_stop(trainer, pl_module):
            leave()

    def _due(self, trainer: Trainer, batch_idx: int) -> bool:
        step = trainer.global_step
        if step == 0:
            return False
        ahead = range(batch_idx, batch_idx + trainer.accumulate_grad_batches)
        return step % self.every_n_steps == 0 or batch_idx == 0 or any(validation_follows(trainer, i) for i in ahead)

    def _restore(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:
        own, self._pending = self._pending, None
        assert own is not None
        loop = trainer.fit_loop.epoch_loop
        here = {"epoch": trainer.current_epoch, "batch": batch_idx, "step": trainer.global_step}
        assert here == own["position"], f"resumed at {here}, but the checkpoint was taken at {own['position']}"
        # Lightning's own restart guesses at these from where it usually saves.
        loop.batch_progress.load_state_dict(own["batch_progress"])
        loop.val_loop.batch_progress.load_state_dict(own["validation_progress"])
        loop._batches_that_stepped = own["logged_steps"]
        if "module" in own:
            pl_module.load_rank_state(own["module"])  # type: ignore[operator]
        restore_random_state(own["random"])

    def rank_state(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What only this process knows."""
        loop = trainer.fit_loop.epoch_loop
        state = {
            "position": {"epoch": trainer.current_epoch, "batch": loop.batch_idx, "step": trainer.global_step},
            "batch_progress": loop.batch_progress.state_dict(),
            "validation_progress": loop.val_loop.batch_progress.state_dict(),
            "logged_steps": loop._batches_that_stepped,
            "random": random_state(),
        }
        if hasattr(pl_module, "rank_state"):
            state["module"] = pl_module.rank_state()  # type: ignore[operator]
        return state

    def save(self, trainer: Trainer, pl_module: LightningModule, *, finished: bool = False) -> None:
        """Write a checkpoint of this moment. All processes call it together.

        Raises:
            CheckpointError: if it cannot be written; older ones are untouched.
        """
        step, start = trainer.global_step, time.perf_counter()
        staging = self.directory / f"{files.STAGING}{files.directory_name(step)}"
        try:
            if trainer.is_global_zero:
                files.begin(self.directory, step)
            trainer.strategy.barrier("checkpoint is staged")
            trainer.save_checkpoint(staging / files.STATE, weights_only=False)
            save_tensors(self.rank_state(trainer, pl_module), staging / files.rank_file(trainer.global_rank))
            trainer.strategy.barrier("checkpoint is written")
            if trainer.is_global_zero:
                keep_csv_log(trainer, staging)
                files.commit(
                    staging,
                    step=step,
                    world_size=trainer.world_size,
                    finished=finished,
                    settings=self.settings,
                    data=self._data,
                    libraries={name: version(name) for name in LIBRARIES},
                )
                files.prune(self.directory, self.keep)
            trainer.strategy.barrier("checkpoint is complete")
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise CheckpointError(self._failed(step, error)) from error
        self._newest = step
        log.info("Checkpoint of step %d in %.2f s", step, time.perf_counter() - start)

    def _failed(self, step: int, error: OSError) -> str:
        older = files.complete(self.directory)
        rest = f"{older[-1]} is intact" if older else "There is no older one"
        return (
            f"The checkpoint of step {step} could not be written to {self.directory}: {error}. {rest}. Make room (or "
            "lower callbacks.checkpoint.keep), then go on with resume=auto."
        )


def validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a validation comes right after this batch of the current epoch."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every):
        return False
    interval = trainer.val_check_batch
    if not isinstance(interval, int):
        return False
    loop = trainer.fit_loop
    index = batch_idx if every is not None else loop.total_batch_idx + batch_idx - loop.batch_idx
    return (index + 1) % interval == 0
