"""How fast a run is and what it takes."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


def peak_memory_gb() -> float:
    """Peak memory so far: of the accelerator if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Throughput(Callback):
    """Logs ``train/clips_per_second``; keeps totals, with the share of time that steps waited for data."""

    def __init__(self) -> None:
        self.clips, self.waited, self.seconds = 0, 0.0, 0.0
        self._batch_end = self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first batch of an epoch waits for the workers to start."""
        self._batch_end = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Data have arrived."""
        self._start = time.perf_counter()
        self.waited += self._start - self._batch_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is done."""
        now = time.perf_counter()
        self.seconds += now - self._batch_end
        self._batch_end = now
        self.clips += len(batch) * trainer.world_size
        pl_module.log("train/clips_per_second", self.clips / max(self.seconds, 1e-9), batch_size=1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is not training time."""
        self._batch_end = time.perf_counter()

    def totals(self) -> dict[str, float]:
        """Clips per second, share of waiting, and peak memory."""
        return {
            "clips_per_second": round(self.clips / self.seconds, 2) if self.seconds else 0.0,
            "data_wait_share": round(self.waited / self.seconds, 3) if self.seconds else 0.0,
            "peak_memory_gb": round(peak_memory_gb(), 2),
        }
