"""What is done to features in training."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Lt

from mosear.fusion.batch import FeatureBatch
from mosear.settings import settings


@settings
@dataclass(frozen=True)
class Augment:
    """Changes of training batches.

    Attributes:
        modality_dropout: probability that a clip loses a modality, drawn for each of its modalities; the last one that
            is left stays.
        noise: standard deviation of Gaussian noise, as a multiple of that of each feature within the batch.
    """

    modality_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    noise: Annotated[float, Ge(0)] = 0.0

    def __call__(self, batch: FeatureBatch) -> FeatureBatch:
        """A changed batch; the draws are those of torch's generator."""
        if self.noise:
            batch = noisy(batch, self.noise)
        if not self.modality_dropout:
            return batch
        names = batch.modalities
        there = torch.stack([batch.present(name) for name in names], dim=1)
        dropped = there & (torch.rand(there.shape, device=there.device) < self.modality_dropout)
        keeper = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0).argmax(1)
        empty = (there & ~dropped).sum(1) == 0
        dropped[empty, keeper[empty]] = False
        for index, name in enumerate(names):
            batch = batch.without([name], dropped[:, index])
        return batch


def noisy(batch: FeatureBatch, share: float) -> FeatureBatch:
    """Gaussian noise on every feature of every step, drawn by torch's generator.

    Args:
        batch: clips.
        share: standard deviation of the noise by that of the modality's features within the batch.
    """
    features = {}
    for name, values in batch.features.items():
        mask = batch.mask(name)
        noise = share * spread(batch, name) * torch.randn_like(values)
        features[name] = torch.where(mask[..., None], values + noise, values)
    return replace(batch, features=features)


def spread(batch: FeatureBatch, name: str) -> float:
    """Standard deviation of a modality's features; 0 where there are too few."""
    values = batch.features[name][batch.mask(name)]
    return float(values.std()) if values.numel() > 1 else 0.0


def noisy_clips(batch: FeatureBatch, share: float, spreads: Mapping[str, float]) -> FeatureBatch:
    """The same noise for a clip in every test: its draws depend on its id alone.

    Args:
        batch: clips.
        share: standard deviation of the noise, as a multiple of ``spreads``.
        spreads: of the features by modality.
    """
    features = {name: values.clone() for name, values in batch.features.items()}
    for row, clip in enumerate(batch.clips):
        generator = torch.Generator().manual_seed(zlib.crc32(clip.id.encode()))
        for name, values in features.items():
            steps = int(batch.lengths[name][row])
            drawn = torch.randn(steps, values.shape[-1], generator=generator).to(values)
            values[row, :steps] += share * spreads[name] * drawn
    return replace(batch, features=features)
