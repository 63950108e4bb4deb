"""What a fusion model reads: a padded sequence of features per modality."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mosear.data.clip import Clip
from mosear.data.dataset import BadClip
from mosear.fusion.sequences import step_mask


@dataclass(frozen=True)
class FeatureBatch:
    """Features of B clips.

    Attributes:
        features: float32 ``[B, T_m, D_m]`` by modality (``video``, ``audio``, ``text``, or others that the source has),
            zeros behind a clip's length.
        lengths: int64 ``[B]`` by modality; 0 where a clip lacks it. ``T_m`` is at least 1.
        clips: whose features these are.
        targets: what the task wants to be predicted, see :mod:`mosear.fusion.tasks`; empty where it is not known.
        bad: clips that could not be read, told with the first clip of their split.
        cut: clips of which a part was left out, with the seconds that were used.
        data: no tokens: an omni-modal batch has them here.
    """

    features: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor]
    clips: Sequence[Clip] = ()
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    bad: Sequence[BadClip] = ()
    cut: Sequence[tuple[Clip, float]] = ()
    data: None = None

    def __len__(self) -> int:
        return len(self.clips) or len(next(iter(self.lengths.values())))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those with features."""
        return tuple(self.features)

    def mask(self, modality: str) -> Tensor:
        """bool ``[B, T]``, True where there are features."""
        return step_mask(self.lengths[modality], self.features[modality].shape[1])

    def present(self, modality: str) -> Tensor:
        """bool ``[B]``: which clips have the modality."""
        return self.lengths[modality] > 0

    def without(self, modalities: Collection[str], rows: Tensor | None = None) -> FeatureBatch:
        """The same clips as if they lacked these modalities.

        Args:
            modalities: to take away.
            rows: bool ``[B]``, from which clips; ``None`` = from all.
        """
        features, lengths = dict(self.features), dict(self.lengths)
        for name in set(modalities) & set(self.features):
            gone = torch.ones_like(lengths[name], dtype=torch.bool) if rows is None else rows
            features[name] = features[name].masked_fill(gone[:, None, None], 0.0)
            lengths[name] = lengths[name].masked_fill(gone, 0)
        return replace(self, features=features, lengths=lengths)

    def to(self, device: torch.device) -> FeatureBatch:
        """On this device."""
        moved = ({name: value.to(device) for name, value in part.items()} for part in (self.features, self.lengths))
        features, lengths = moved
        targets = {name: value.to(device) for name, value in self.targets.items()}
        return replace(self, features=features, lengths=lengths, targets=targets)


def padded(
    clips: Sequence[Clip],
    features: Sequence[Mapping[str, np.ndarray]],
    dimensions: Mapping[str, int],
) -> FeatureBatch:
    """Clips of different lengths in one batch.

    Args:
        clips: B clips.
        features: of each, ``[T, D]`` by modality; an absent modality has no key.
        dimensions: D by modality.
    """
    whole, lengths = {}, {}
    for name, size in dimensions.items():
        own = [row.get(name) for row in features]
        counts = [0 if values is None else len(values) for values in own]
        block = torch.zeros(len(own), max([1, *counts]), size)
        for row, values in enumerate(own):
            if values is not None:
                block[row, : len(values)] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        whole[name], lengths[name] = block, torch.tensor(counts)
    return FeatureBatch(whole, lengths, clips)
