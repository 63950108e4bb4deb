"""A linear map of the mean features: what the features say without any fusion.

    h_m = mean_t x_m[t]        (0 where the modality is missing)
    y   = W [norm(h_video); norm(h_audio); norm(h_text)] + b

``norm`` standardises every feature with running means of training (a batch norm without parameters).

Over time, h_m[t] is the sequence itself, brought to the steps of the clip's longest modality by linear interpolation,
and y[t] is the same map of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import mean_over_time, resampled, step_mask


class LinearProbe(FusionModel):
    """See the module's docstring; ``(sum of widths + 1) x outputs`` parameters.

    Args:
        dimensions: see :class:`~mosear.fusion.model.FusionModel`.
        outputs: see :class:`~mosear.fusion.model.FusionModel`.
        over_time: one output per step.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"label", "labels", "score", "series"})

    def __init__(self, dimensions: Mapping[str, int], outputs: int, *, over_time: bool = False) -> None:
        super().__init__(dimensions, outputs)
        self.over_time = over_time
        self.norms = nn.ModuleDict({name: nn.BatchNorm1d(size, affine=False) for name, size in dimensions.items()})
        self.head = nn.Linear(sum(dimensions.values()), outputs)

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, outputs]``, or ``[B, T, outputs]`` with steps."""
        if not self.over_time:
            means = {name: mean_over_time(batch.features[name], batch.lengths[name]) for name in self.dimensions}
            pooled = [self._standardised(name, means[name], batch.present(name)) for name in self.dimensions]
            return FusionOutput(self.head(torch.cat(pooled, dim=-1)))
        steps = torch.stack([batch.lengths[name] for name in self.dimensions]).amax(0).clamp(min=1)
        within = step_mask(steps, int(steps.max()))
        parts = []
        for name in self.dimensions:
            values = resampled(batch.features[name], batch.lengths[name], steps)
            parts.append(self._standardised(name, values, within & batch.present(name)[:, None]))
        return FusionOutput(self.head(torch.cat(parts, dim=-1)), steps)

    def _standardised(self, name: str, values: Tensor, there: Tensor) -> Tensor:
        """Zeros where nothing is there, which must not shift the running means either."""
        found = torch.zeros_like(values)
        if int(there.sum()) > (1 if self.training else 0):
            found[there] = self.norms[name](values[there])
        return found
