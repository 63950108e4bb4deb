"""Where features come from, and the features of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from omegaconf import DictConfig

from mosear.data.clip import Clip
from mosear.data.dataset import BadClip
from mosear.data.manifest import Manifest
from mosear.data.rows import ManifestError
from mosear.fusion.batch import FeatureBatch, padded

Features = Mapping[str, np.ndarray]


class FeatureSource(Protocol):
    """Gives the features of train, val and test clips: ``features._target_``.

    It is built with the whole config (``cfg``), its own settings, and ``accept``: what keeps a clip from being used by
    the task, ``None`` for those that can be.
    """

    @staticmethod
    def planned_dimensions(cfg: DictConfig) -> Mapping[str, int]:
        """:attr:`dimensions` of what a config would build, without building it."""

    @property
    def dimensions(self) -> Mapping[str, int]:
        """Width of the features by modality."""

    def table(self, split: str) -> FeatureTable:
        """Features of a split of the config's data."""

    def media(self, clip: Clip) -> tuple[Path | None, Path | str | None]:
        """Video and sound file of a test clip, for the report."""

    def about(self) -> Mapping[str, Any]:
        """Where the features come from, in a few plain entries."""


@dataclass
class FeatureTable:
    """Features of a split, by position.

    Attributes:
        clips: N clips.
        dimensions: width by modality.
        read: features of a clip by its position; an absent modality has no key.
        bad: clips whose media could not be read; they are not among ``clips``.
        max_bytes: a split whose padded features need at most so much is kept in memory as one block.
    """

    clips: Sequence[Clip]
    dimensions: Mapping[str, int]
    read: Callable[[int], Features]
    bad: Sequence[BadClip] = ()
    max_bytes: int = 2**30
    _whole: FeatureBatch | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, rows: Sequence[int]) -> FeatureBatch:
        """Some clips, padded to the longest of them."""
        whole = self._in_memory()
        clips = [self.clips[row] for row in rows]
        if whole is None:
            return padded(clips, [self.read(row) for row in rows], self.dimensions)
        index = torch.as_tensor(rows, dtype=torch.long)
        lengths = {name: counts[index] for name, counts in whole.lengths.items()}
        features = {
            name: values[index, : max(1, int(lengths[name].max()) if len(index) else 1)]
            for name, values in whole.features.items()
        }
        return FeatureBatch(features, lengths, clips)

    def _in_memory(self) -> FeatureBatch | None:
        if self._whole is None and self.clips and self._fits:
            self._whole = padded(self.clips, [self.read(row) for row in range(len(self))], self.dimensions)
        return self._whole

    @cached_property
    def _fits(self) -> bool:
        """Whether the padded split is small enough, estimated once from an even sample."""
        sample = [self.read(row) for row in np.linspace(0, len(self) - 1, min(len(self), 64)).astype(int)]
        longest = {name: max([1, *(len(row[name]) for row in sample if name in row)]) for name in self.dimensions}
        return len(self) * sum(4 * longest[name] * size for name, size in self.dimensions.items()) <= self.max_bytes


def usable(manifest: Manifest, accept: Callable[[Clip], str | None], split: str) -> None:
    """Refuse a split without clips, or with clips that the task cannot use.

    Args:
        manifest: clips of the split.
        accept: what keeps a clip from being used, ``None`` for nothing.
        split: its name.

    Raises:
        ManifestError: with the number of such clips and the first.
    """
    if not len(manifest):
        raise ManifestError(str(manifest.path), [f"there are no {split} clips"])
    wrong = [(clip, reason) for clip in manifest if (reason := accept(clip)) is not None]
    if wrong:
        clip, reason = wrong[0]
        told = f"{len(wrong)} of {len(manifest)} {split} clips cannot be used, e.g. {clip.id!r}: {reason}"
        raise ManifestError(str(manifest.path), [f"{told}. Choose another task=, or correct the manifest."])
