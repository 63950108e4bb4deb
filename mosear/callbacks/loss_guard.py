"""Stops at a loss that is not a number or explodes, and keeps what is needed to find out why."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy
from safetensors.torch import save_file
from torch import Tensor

from mosear.callbacks.checkpoint_state import random_state
from mosear.data.dataset import ClipBatch
from mosear.methods.processes import total, world_size
from mosear.roles import TokenRole

log = logging.getLogger(__name__)

VALIDATION_LOSS = "val/loss"


class BadLossError(ValueError):
    """A loss is not finite or far above what it was, or weights are not finite."""


class LossGuard(Callback):
    """Judges every optimiser step before it is taken: the mean loss over processes, and the norm of the gradients.

    A step is bad if one of them is not finite, or if the loss exceeds ``explode_factor`` times the median of the last
    ``window`` good losses. All processes see the same numbers, so they decide alike. What a bad step was made of goes
    to ``directory/step-N/rank-R/``: ``batch.json`` (clips, and tokens by role), ``losses.json`` (what is not finite
    stands there as a string, such as ``"nan"``), ``rng.pt`` (the random generators when the step began), and
    ``gate.safetensors`` where the adapter has a gate.

    A step that passes can still ruin the weights. So the loss of every validation is judged as well: if it is not
    finite, ``stop`` raises and ``skip`` warns.

    Args:
        directory: of the dumps.
        on_bad_loss: ``stop`` raises; ``skip`` leaves weights and optimiser as they are, counts, and goes on.
        max_skips: so many may be skipped in a run; one more stops it.
        explode_factor: what counts as an explosion; ``None`` = only what is not finite.
        window: losses that the median is taken of; nothing explodes before there are so many.

    Attributes:
        skipped: bad steps so far.
    """

    def __init__(
        self,
        directory: str,
        *,
        on_bad_loss: Literal["stop", "skip"] = "stop",
        max_skips: int = 10,
        explode_factor: float | None = None,
        window: int = 50,
    ) -> None:
        problems = []
        if on_bad_loss not in ("stop", "skip"):
            problems.append(f"on_bad_loss={on_bad_loss!r} must be 'stop' or 'skip'")
        if max_skips < 0:
            problems.append(f"max_skips={max_skips} must not be negative")
        if explode_factor is not None and not explode_factor > 1:
            problems.append(f"explode_factor={explode_factor} must be above 1, or null")
        if window < 1:
            problems.append(f"window={window} must be at least 1")
        if problems:
            raise ValueError("LossGuard: " + "; ".join(problems) + ".")
        self.directory, self.on_bad_loss, self.max_skips = Path(directory), on_bad_loss, max_skips
        self.explode_factor, self.window = explode_factor, window
        self.skipped = 0
        self.losses: deque[float] = deque(maxlen=window)
        self._parts: list[Tensor] = []
        self._batches: list[ClipBatch] = []
        self._random: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        if self.on_bad_loss == "skip" and isinstance(trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                "callbacks.loss_guard.on_bad_loss=skip cannot take gradients back from DeepSpeed, which has reduced "
                "and partitioned them. Use on_bad_loss=stop, or trainer=ddp."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember what the step is made of."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._parts, self._batches, self._random = [], [], random_state()
        self._batches.append(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep this batch's part of the step's loss (Lightning has divided it by the number of accumulated batches)."""
        self._parts.append(loss.detach().float())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Judge, before gradients are clipped and used."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else self._parts[0].new_zeros(())
        own = torch.stack([torch.stack(self._parts).mean(), norm.to(self._parts[0])])
        loss, norm_value = (total(own) / world_size()).tolist()
        trouble = self._trouble(loss, norm_value)
        if trouble is None:
            self.losses.append(loss)
            return
        step = trainer.global_step
        where = self.dump(trainer, pl_module, loss)
        clips = ", ".join(clip for batch in self._batches for clip in clip_ids(batch)[:3])
        message = f"Step {step}: {trouble}. Clips: {clips}, ... (all in {where / 'batch.json'})."
        if self.on_bad_loss == "stop" or self.skipped >= self.max_skips:
            raise BadLossError(
                f"{message} The adapter of the last checkpoint is intact. Look at these clips; lower "
                "tuning.learning_rate; or skip such steps with callbacks.loss_guard.on_bad_loss=skip"
                + (f" (max_skips={self.max_skips} are used up)." if self.on_bad_loss == "skip" else ".")
            )
        self.skipped += 1
        log.warning("%s Skipped, the %d. of at most %d.", message, self.skipped, self.max_skips)
        for parameter in pl_module.parameters():
            parameter.grad = None  # an optimiser leaves such parameters, and what it knows about them, alone

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log how many were skipped, once there is one."""
        if self.skipped:
            pl_module.log("train/skipped_steps", float(self.skipped), batch_size=1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the loss of a validation (the same number on all processes)."""
        value = trainer.callback_metrics.get(VALIDATION_LOSS)
        if trainer.state.fn != "fit" or trainer.sanity_checking or value is None or math.isfinite(value):
            return
        message = (
            f"Step {trainer.global_step}: the loss of the validation is {float(value)}: the adapter's answers are no "
            "numbers any more. An adapter that an earlier validation chose, and the last checkpoint, are intact. Lower "
            "tuning.learning_rate"
        )
        if self.on_bad_loss == "stop":
            raise BadLossError(f"{message}.")
        log.warning("%s.", message)

    def _trouble(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the loss is {loss:.4g}, but the norm of its gradients is {norm}"
        if self.explode_factor is None or len(self.losses) < self.window:
            return None
        usual = median(self.losses)
        if loss > self.explode_factor * max(usual, 1e-6):
            return f"the loss is {loss:.4g}, more than {self.explode_factor:g} times the usual {usual:.4g}"
        return None

    def dump(self, trainer: Trainer, pl_module: LightningModule, loss: float) -> Path:
        """Write what is known about a bad step; returns the directory of this process."""
        where = self.directory / f"step-{trainer.global_step:06d}" / f"rank-{trainer.global_rank}"
        where.mkdir(parents=True, exist_ok=True)
        batches = [described(batch) for batch in self._batches]
        (where / "batch.json").write_text(json.dumps(batches, indent=1), encoding="utf-8")
        own = [float(part) for part in self._parts]
        history = {"step": trainer.global_step, "loss": loss, "own_parts": own, "before": list(self.losses)}
        text = json.dumps(without_nan(history), indent=1, allow_nan=False)
        (where / "losses.json").write_text(text, encoding="utf-8")
        torch.save(self._random, where / "rng.pt")
        gate = {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad and ".mose_W." in name
        }
        if gate:
            save_file(gate, where / "gate.safetensors")
        return where

    def state_dict(self) -> dict[str, Any]:
        """What the next loss is compared with."""
        return {"losses": list(self.losses), "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.losses, self.skipped = deque(state_dict["losses"], maxlen=self.window), state_dict["skipped"]


def without_nan(value: Any) -> Any:
    """Numbers that JSON does not have as strings: ``"nan"``, ``"inf"``, ``"-inf"``."""
    if isinstance(value, dict):
        return {key: without_nan(own) for key, own in value.items()}
    if isinstance(value, list):
        return [without_nan(own) for own in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def clip_ids(batch: ClipBatch) -> list[str]:
    """Clips that the model saw."""
    return [] if batch.data is None else [clip.id for clip in batch.data.clips]


def described(batch: ClipBatch) -> dict[str, Any]:
    """A batch for people: each clip's files, label, and tokens by role."""
    if batch.data is None:
        return {"clips": []}
    rows = []
    for clip, roles in zip(batch.data.clips, batch.data.roles.cpu(), strict=True):
        counts = {role.name.lower(): int((roles == int(role)).sum()) for role in TokenRole}
        rows.append({"id": clip.id, "label": clip.label, "video": clip.video, "audio": clip.audio, "tokens": counts})
    return {"clips": rows}
