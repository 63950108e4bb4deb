"""A Lightning module of one weight, and batches of clips, for callbacks that do not care what a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from mosear.backbones.media import AudioInput, MediaBatch, VideoInput
from mosear.data.clip import Clip
from mosear.data.dataset import ClipBatch
from mosear.data.loader import ResumableLoader
from mosear.data.sample import OmniBatch
from mosear.data.sampling import BucketBatchSampler


def clip_batch(*names: str, length: int = 6) -> ClipBatch:
    """A batch whose clips have half a second of video (two patches of time) and 0.8 s of sound each."""
    shape = (len(names), length)
    media = MediaBatch(
        [VideoInput(torch.zeros(2, 3), torch.tensor([2, 1, 1]), 0.25) for _ in names],
        [AudioInput(torch.zeros(4, 80)) for _ in names],
    )
    zeros = torch.zeros(shape, dtype=torch.long)
    roles = torch.tensor([3, 0, 0, 1, 2, 2])[:length].expand(shape)
    return ClipBatch(
        OmniBatch(
            clips=[Clip(name, video=f"{name}.mp4", audio="video", label="sad") for name in names],
            input_ids=zeros,
            attention_mask=torch.ones(shape, dtype=torch.long),
            position_ids=zeros.expand(3, *shape),
            roles=roles,
            transcript=zeros.bool(),
            labels=zeros,
            prompt_mask=zeros.bool(),
            media=media,
        )
    )


class ToyTuner(LightningModule):
    """Loss ``(w - target)^2`` times a factor per clip, which may be NaN or huge.

    Args:
        factors: by clip id; 1 for all others.
        broken_gradients: clips whose loss is fine, but not its gradient.
    """

    def __init__(self, factors: dict[str, float] | None = None, broken_gradients: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        self.factors, self.broken = factors or {}, broken_gradients

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        assert batch.data is not None
        losses = []
        for clip in batch.data.clips:
            target = float(len(clip.id))
            loss = (self.weight - target).square().sum() * self.factors.get(clip.id, 1.0)
            if clip.id in self.broken:
                loss = loss + (self.weight * 0).abs().sqrt().sum()  # zero, with an infinite slope
            losses.append(loss)
        return torch.stack(losses).mean()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx), batch_size=1)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class NoisyTuner(ToyTuner):
    """Adds what only the generators and the schedule know to every step."""

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) + (self.weight * torch.randn(2)).sum()

    def configure_optimizers(self) -> Any:
        optimiser = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, 3, gamma=0.5)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ToyData(LightningDataModule):
    """Clips whose names differ in length, shuffled by the real sampler; one validation batch."""

    def train_dataloader(self) -> DataLoader[Any]:
        names = ["x" * (1 + index) for index in range(10)]
        sampler = BucketBatchSampler([1] * len(names), 2, seed=1)
        assert self.trainer is not None
        sampler.set_epoch(self.trainer.current_epoch)
        return ResumableLoader(names, batch_sampler=sampler, collate_fn=lambda own: clip_batch(*own))  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([clip_batch("v"), clip_batch("vv")], batch_size=None)


def fit(
    module: LightningModule, data: list[ClipBatch] | LightningDataModule, root: Path, *callbacks: Any, **options: Any
) -> Trainer:
    """Train, through the data once if nothing else is said."""
    options = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "gradient_clip_val": 1.0, **options}
    checkpoint_path = options.pop("ckpt_path", None)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(default_root_dir=root, callbacks=list(callbacks), **{**quiet, **options})
    loader = data if isinstance(data, LightningDataModule) else DataLoader(data, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, ckpt_path=checkpoint_path)
    return trainer
