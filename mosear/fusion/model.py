"""What a fusion model is.

A model is one module in :mod:`mosear.fusion.models` with a class, and one YAML in ``conf/model``. The system supplies
``dimensions`` and ``outputs``; everything else of the constructor is a hyper-parameter.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from mosear.fusion.batch import FeatureBatch

if TYPE_CHECKING:
    from mosear.fusion.tasks import Task


@dataclass(frozen=True)
class FusionOutput:
    """What a model computes for B clips.

    Attributes:
        values: ``[B, outputs]``: logits of labels, logits of each label of a set, or a score; for time series
            ``[B, T, outputs]`` with as many steps as :attr:`steps` says.
        steps: int64 ``[B]``, steps of each clip that mean something; ``None`` without time.
        extras: by name, what the model's own loss needs. Those of shape ``[B]`` are figures of the clips, whose means
            ``metrics.json`` has under ``model_figures``.
    """

    values: Tensor
    steps: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def cpu(self) -> FusionOutput:
        """In the memory of the CPU."""
        steps = None if self.steps is None else self.steps.cpu()
        return FusionOutput(self.values.cpu(), steps, {name: value.cpu() for name, value in self.extras.items()})


class FusionModel(nn.Module):
    """Features of all modalities to one output per clip (or per step).

    In evaluation a clip's output depends on that clip alone: not on batch mates, padding, or the features of a modality
    whose length is 0.

    Args:
        dimensions: width of the features by modality; a model leaves out those it cannot read.
        outputs: numbers per clip (or step), as the task says. A model that can learn time series has an argument
            ``over_time`` as well.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"label", "labels", "score"})
    """Names of the tasks that the model can learn."""

    def __init__(self, dimensions: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        self.dimensions, self.outputs = dict(dimensions), outputs

    @abstractmethod
    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """One pass."""

    def loss(self, output: FusionOutput, batch: FeatureBatch, task: Task) -> dict[str, Tensor]:
        """``loss``, which is minimised, and its parts by name; called in training alone."""
        return {"loss": task.loss(output, batch)}
