"""A recorder as a callback of transformers' Trainer, on which both peers are built."""

from __future__ import annotations

from typing import Any

from recorder import Recorder  # beside this file: mosear is not installed in the peers' environments
from transformers import TrainerCallback


class Record(TrainerCallback):
    """Stamps each step; losses come from the Trainer's log, which rounds them.

    Args:
        path: JSON file to write.
    """

    def __init__(self, path: str) -> None:
        self.recorder = Recorder(path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The adapter is there."""
        self.recorder.begin(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step is done."""
        self.recorder.step()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Also called once more at the end, without a step's loss."""
        if logs is not None and "loss" in logs:
            self.recorder.loss(float(logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before anything is saved."""
        self.recorder.end()
