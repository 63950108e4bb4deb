"""Feature tables to DataLoaders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from mosear.data.clip import Clip
from mosear.data.loader import ResumableLoader
from mosear.data.sampling import BucketBatchSampler
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.source import FeatureSource, FeatureTable
from mosear.fusion.tasks import Task


class FusionDataModule(LightningDataModule):
    """Batches of features with their targets.

    Args:
        source: of the features.
        task: makes the targets.
        batch_size: training clips per step and process.
        eval_batch_size: validation and test clips per step and process.
        bucket: group clips of like length over this many batches; 1 = plain shuffling.
        seed: of the order of the clips.
    """

    def __init__(
        self,
        source: FeatureSource,
        task: Task,
        *,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        bucket: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.task = source, task
        self.batch_size, self.eval_batch_size, self.bucket, self.seed = batch_size, eval_batch_size, bucket, seed

    def table(self, split: str) -> FeatureTable:
        """The features of a split."""
        return self.source.table(split)

    def manifest(self, split: str) -> Sequence[Clip]:
        """The clips of a split, those with bad media included."""
        table = self.table(split)
        return [*table.clips, *(bad.clip for bad in table.bad)]

    def batch(self, split: str, rows: Sequence[int]) -> FeatureBatch:
        """Some clips of a split with their targets."""
        table = self.table(split)
        found = table.batch(rows)
        return replace(found, targets=self.task.targets(found.clips), bad=table.bad if 0 in rows else ())

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled; the order is a function of (seed, epoch)."""
        table, trainer = self.table("train"), self.trainer
        sampler = BucketBatchSampler(
            self._lengths(table),
            self.batch_size,
            seed=self.seed,
            bucket=self.bucket,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if trainer is not None:
            sampler.set_epoch(trainer.current_epoch)
        rows: Any = range(len(table))
        return ResumableLoader(rows, batch_sampler=sampler, collate_fn=lambda own: self.batch("train", own))

    def val_dataloader(self) -> DataLoader[Any]:
        """In manifest order."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """In manifest order."""
        return self._eval_loader("test")

    def _eval_loader(self, split: str) -> DataLoader[Any]:
        rows: Any = range(len(self.table(split)))
        if self.trainer is not None and self.trainer.world_size > 1:  # no clip twice, so shares may differ by one
            rows = rows[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(rows, batch_size=self.eval_batch_size, collate_fn=lambda own: self.batch(split, own))

    def _lengths(self, table: FeatureTable) -> list[int]:
        if self.bucket == 1:
            return [1] * len(table)
        return [max((len(values) for values in table.read(row).values()), default=1) for row in range(len(table))]
