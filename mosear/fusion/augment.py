"""What is done to features in training."""

from __future__ import annotations

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


def noisy(batch: FeatureBatch, share: float, generator: torch.Generator | None = None) -> FeatureBatch:
    """Gaussian noise on every feature of every step.

    Args:
        batch: clips.
        share: standard deviation of the noise by that of the modality's features within the batch.
        generator: of the draws; ``None`` = torch's.
    """
    features = {}
    for name, values in batch.features.items():
        mask = batch.mask(name)
        spread = values[mask].std() if int(mask.sum()) > 1 else values.new_zeros(())
        drawn = torch.randn(values.shape, generator=generator, dtype=values.dtype).to(values.device)
        features[name] = torch.where(mask[..., None], values + share * spread * drawn, values)
    return replace(batch, features=features)
