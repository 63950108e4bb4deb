"""A linear map of the mean features: what the features say without any fusion.

    h_m = mean_t x_m[t]        (0 where the modality is missing)
    y   = W [norm(h_video); norm(h_audio); norm(h_text)] + b

``norm`` standardises every feature with running means of training (a batch norm without parameters).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import mean_over_time


class LinearProbe(FusionModel):
    """See the module's docstring; ``(sum of widths + 1) x outputs`` parameters."""

    def __init__(self, dimensions: Mapping[str, int], outputs: int) -> None:
        super().__init__(dimensions, outputs)
        self.norms = nn.ModuleDict({name: nn.BatchNorm1d(size, affine=False) for name, size in dimensions.items()})
        self.head = nn.Linear(sum(dimensions.values()), outputs)

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, outputs]``."""
        return FusionOutput(self.head(torch.cat([self._pooled(batch, name) for name in self.dimensions], dim=-1)))

    def _pooled(self, batch: FeatureBatch, name: str) -> Tensor:
        present = batch.present(name)
        mean = mean_over_time(batch.features[name], batch.lengths[name])
        pooled = torch.zeros_like(mean)
        if int(present.sum()) > (1 if self.training else 0):  # a missing modality must not shift the running means
            pooled[present] = self.norms[name](mean[present])
        return pooled
