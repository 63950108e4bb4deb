"""How fast a run is, what it takes, and when it will be done."""

from __future__ import annotations

import logging
import resource
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning import LightningModule, Trainer

from mosear.backbones.media import MediaBatch
from mosear.callbacks.base import Phase, RunCallback

log = logging.getLogger(__name__)

MEL_FRAMES_PER_SECOND = 100
"""Of the mel extractor of every family: a hop of 10 ms."""


def peak_memory_gb() -> float:
    """Peak memory so far: of the accelerator if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def media_seconds(media: MediaBatch) -> float:
    """Seconds of video plus seconds of sound that a batch carries."""
    grids = torch.stack([own.grid for own in media.videos])[:, 0].tolist() if media.videos else []
    video = sum(length * own.seconds_per_grid for length, own in zip(grids, media.videos, strict=True))
    frames = (own.mel.shape[-1] if hasattr(own, "mel") else own.mel_frames for own in media.audios)
    return video + sum(frames) / MEL_FRAMES_PER_SECOND


@dataclass
class Tally:
    """What went through, and how long it took.

    Attributes:
        clips: of all processes.
        tokens: padding included.
        media: seconds of video plus seconds of sound.
        waited: seconds for data.
        seconds: in all.
    """

    clips: int = 0
    tokens: int = 0
    media: float = 0.0
    waited: float = 0.0
    seconds: float = 0.0

    def add(self, batch: Any, processes: int) -> None:
        """One batch; all processes take equal shares."""
        self.clips += len(batch) * processes
        if batch.data is not None:
            self.tokens += batch.data.attention_mask.numel() * processes
            self.media += media_seconds(batch.data.media) * processes

    def rates(self) -> dict[str, float]:
        """Per second, the share of waiting, and this process's peak memory; without tokens nothing is said of them."""
        seconds = max(self.seconds, 1e-9)
        of_tokens = {
            "tokens_per_second": round(self.tokens / seconds, 1),
            "media_seconds_per_second": round(self.media / seconds, 2),
        }
        return {
            "clips_per_second": round(self.clips / seconds, 2),
            **(of_tokens if self.tokens else {}),
            "data_wait_share": round(self.waited / seconds, 3),
            "peak_memory_gb": round(peak_memory_gb(), 2),
        }


class Throughput(RunCallback):
    """Logs rates over the time since training began, interruptions left out, and keeps totals.

    ``train/clips_per_second``, ``train/tokens_per_second`` (padding included: it costs as much),
    ``train/media_seconds_per_second`` (video and sound both count), ``train/data_wait_share`` (the share of time that
    steps waited for data) and ``train/peak_memory_gb``. With several processes, totals are this process's times their
    number: all take equal shares. A test is counted likewise, for the run's summary.

    Args:
        report_every: seconds between two lines with the time that is left, in ``run.log`` and on the terminal (for
            where no progress bar is seen).
    """

    def __init__(self, report_every: float = 60.0) -> None:
        if not report_every > 0:
            raise ValueError(f"report_every={report_every} must be positive.")
        self.report_every = report_every
        self.trained, self.tested = Tally(), Tally()
        self._batch_end = self._reported = 0.0
        self._first: tuple[int, float] = (0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first batch waits for the workers to start."""
        self._batch_end = self._reported = time.perf_counter()
        self._first = (trainer.global_step, self._reported)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first batch of an epoch waits for the workers to start."""
        self._batch_end = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Data have arrived."""
        self.trained.waited += time.perf_counter() - self._batch_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is done."""
        now = self._count(self.trained, trainer, batch)
        for name, value in self.trained.rates().items():
            pl_module.log(f"train/{name}", value, batch_size=1)
        if now - self._reported >= self.report_every:
            self._reported = now
            self._report(trainer, now)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is not training time."""
        self._batch_end = time.perf_counter()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test counts on its own, its first wait for the workers included."""
        self.tested = Tally()
        self._batch_end = time.perf_counter()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Data have arrived."""
        self.tested.waited += time.perf_counter() - self._batch_end

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch is answered."""
        self._count(self.tested, trainer, batch)

    def rates(self, phase: Phase) -> dict[str, float]:
        """Of training, or of the last test."""
        return (self.trained if phase == "trained" else self.tested).rates()

    def _count(self, tally: Tally, trainer: Trainer, batch: Any) -> float:
        now = time.perf_counter()
        tally.seconds += now - self._batch_end
        tally.add(batch, trainer.world_size)
        self._batch_end = now
        return now

    def _report(self, trainer: Trainer, now: float) -> None:
        step, total = trainer.global_step, int(trainer.estimated_stepping_batches)
        first, start = self._first
        if not trainer.is_global_zero or step == first:
            return
        left = (now - start) / (step - first) * (total - step)
        rates = self.trained.rates()
        log.info(
            "Step %d of %d, about %s left: %.1f clips/s, %s%.0f %% of the time waiting for data, %.1f GB",
            step,
            total,
            duration(left),
            rates["clips_per_second"],
            f"{rates['tokens_per_second']:.0f} tokens/s, " if self.trained.tokens else "",
            100 * rates["data_wait_share"],
            rates["peak_memory_gb"],
        )

    def state_dict(self) -> dict[str, float]:
        """Totals of training so far: a resumed run goes on counting."""
        return asdict(self.trained)

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the totals."""
        self.trained = Tally(**state_dict)  # type: ignore[arg-type]


def duration(seconds: float) -> str:
    """For people: ``3 h 05 min``, ``12 min``, ``40 s``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
