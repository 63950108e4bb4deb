"""Saves what a system trains while it trains; of an omni-modal model that is the adapter, in PEFT's own format."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Literal

from lightning import LightningModule, Trainer

from mosear.callbacks.base import RunCallback
from mosear.callbacks.loss_guard import BadLossError
from mosear.methods.processes import anywhere


class AdapterCheckpoint(RunCallback):
    """Keeps ``directory`` at the chosen adapter: loads with plain ``PeftModel.from_pretrained``.

    Args:
        directory: the adapter's directory; it is replaced as a whole.
        select: ``best`` = lowest ``monitor`` on validation data (the last one if nothing was validated); ``last`` = the
            end.
        monitor: what ``best`` means; lower is better.
    """

    def __init__(self, directory: str, *, select: Literal["best", "last"] = "best", monitor: str = "val/loss") -> None:
        if select not in ("best", "last"):
            raise ValueError(f"select={select!r} must be 'best' or 'last'.")
        self.directory, self.select, self.monitor = Path(directory), select, monitor
        self.best: float | None = None

    def saved_weights(self) -> Path | None:
        """The adapter's directory, once there is one."""
        return self.directory if self.directory.exists() else None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when validation improved; a value that is not finite never does."""
        value = trainer.callback_metrics.get(self.monitor)
        if self.select != "best" or trainer.sanity_checking or value is None or trainer.state.fn != "fit":
            return
        if math.isfinite(value) and (self.best is None or float(value) < self.best):
            self.best = float(value)
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state if it is wanted, or if nothing was ever validated."""
        if self.select == "last" or self.best is None:
            refuse_broken_weights(trainer, pl_module)
            self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write next to the target, then swap: a reader never sees half an adapter. All processes call it."""
        staging = self.directory.with_name(self.directory.name + ".new")
        if trainer.is_global_zero:
            shutil.rmtree(staging, ignore_errors=True)
        try:
            pl_module.save(staging, write=trainer.is_global_zero)  # type: ignore[operator]
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        if trainer.is_global_zero:
            self._replace(staging)

    def _replace(self, staging: Path) -> None:
        old = self.directory.with_name(self.directory.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.directory.exists():
            os.replace(self.directory, old)
        os.replace(staging, self.directory)
        shutil.rmtree(old, ignore_errors=True)

    def state_dict(self) -> dict[str, float | None]:
        """The best value so far, so that a resumed run does not overwrite a better adapter."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Restore the best value."""
        self.best = state_dict["best"]


def refuse_broken_weights(trainer: Trainer, pl_module: LightningModule) -> None:
    """No validation follows the last step: its weights must be finite to be saved.

    Raises:
        BadLossError: on all processes, if those of one are not.
    """
    broken = [
        name
        for name, parameter in pl_module.named_parameters()
        if parameter.requires_grad and not bool(getattr(parameter, "ds_tensor", parameter).isfinite().all())
    ]
    if anywhere(bool(broken), pl_module.device):
        raise BadLossError(
            f"Step {trainer.global_step}: the last steps left weights that are not finite ({', '.join(broken[:3])}), "
            "so no adapter is saved. The last checkpoint may hold them too. Lower tuning.learning_rate and start a new "
            "run."
        )
