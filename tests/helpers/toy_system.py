"""A second system, of which the package knows nothing: a linear classifier of three numbers per clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from mosear.evaluation.predictions import PredictionRow
from mosear.methods.system import TUNED, System
from tests.helpers.toy_tuner import clip_batch

LABELS = ("sad", "happy")


class ToyClips(LightningDataModule):
    """Clips whose names say their label: those of an even length are happy."""

    def loader(self, first: int, count: int) -> DataLoader[Any]:
        names = [f"{'x' * (1 + index % 4)}{first + index:03d}" for index in range(count)]
        return DataLoader([clip_batch(*names[at : at + 4]) for at in range(0, count, 4)], batch_size=None)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(0, 32)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(100, 8)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(200, 16)


class ToySystem(System):
    """Learns a clip's label from the length of its name."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.data, self.labels, self.rows = ToyClips(), LABELS, []
        self.run = {"benchmark": "toy", "model": TUNED, "steering": "none", "seed": seed}
        self.head = nn.Linear(4, len(LABELS))
        self.start = {name: value.clone() for name, value in self.head.state_dict().items()}

    is_tuned = True
    title = "toy"

    @contextmanager
    def untuned(self) -> Iterator[None]:
        trained = {name: value.clone() for name, value in self.head.state_dict().items()}
        self.head.load_state_dict(self.start)
        try:
            yield
        finally:
            self.head.load_state_dict(trained)

    def parameter_counts(self) -> dict[str, int]:
        return {"trainable": sum(p.numel() for p in self.parameters()), "frozen": 0}

    def save(self, directory: Path, *, write: bool = True) -> None:
        if write:
            directory.mkdir()
            save_file(self.head.state_dict(), directory / "head.safetensors")

    def restore(self, directory: Path) -> None:
        self.head.load_state_dict(load_file(directory / "head.safetensors"))

    def about(self) -> Mapping[str, Any]:
        return {"features": 4}

    def test_summary(self) -> Mapping[str, Any]:
        return {"toy": {"rows": len(self.rows)}}

    def logits(self, batch: Any) -> torch.Tensor:
        lengths = torch.tensor([len(clip.id) % 4 for clip in batch.data.clips])
        return self.head(nn.functional.one_hot(lengths, 4).float())

    def gold(self, batch: Any) -> torch.Tensor:
        return torch.tensor([1 - len(clip.id) % 2 for clip in batch.data.clips])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.logits(batch), self.gold(batch))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self.logits(batch), self.gold(batch))
        self.log("val/loss", loss, batch_size=len(batch))

    def on_test_epoch_start(self) -> None:
        self.rows = []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        for clip, p, gold in zip(batch.data.clips, self.logits(batch).softmax(-1), self.gold(batch), strict=True):
            about = {"id": clip.id, "subset": "consistent", "split": "test", "label": LABELS[int(gold)]}
            likeliest = LABELS[int(p.argmax())]
            self.rows.append(
                PredictionRow(**about, video=None, text=None, prediction=likeliest, distribution=p.tolist(), **self.run)
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.3)


def build_toy_system(cfg: DictConfig, trainer: Trainer) -> ToySystem:
    """What ``system._target_`` names."""
    return ToySystem(int(cfg.seed))
