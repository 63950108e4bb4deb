"""What a task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mosear.data.clip import Clip
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionOutput


class Task(ABC):
    """Turns clips into targets, outputs into a loss, and outputs into predictions.

    Args:
        labels: the label list, in the order of every distribution.
    """

    name: ClassVar[str]
    over_time: ClassVar[bool] = False
    """Whether a model puts out numbers for every step; then it is built with ``over_time=True``."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that a model puts out per clip or step."""

    @abstractmethod
    def problem(self, clip: Clip) -> str | None:
        """Why the clip cannot be learned from or tested on; ``None`` if it can."""

    @abstractmethod
    def targets(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """What should be predicted for each clip."""

    @abstractmethod
    def loss(self, output: FusionOutput, batch: FeatureBatch) -> Tensor:
        """The usual loss of the task, a mean over clips."""

    @abstractmethod
    def validation(self, outputs: Sequence[FusionOutput], clips: Sequence[Clip]) -> dict[str, float]:
        """Figures of a whole validation set; ``loss`` selects the weights (lowest)."""

    def fit(self, outputs: Sequence[FusionOutput], clips: Sequence[Clip]) -> None:
        """Choose what is left open on validation data (a threshold); nothing by default."""
        return

    @abstractmethod
    def truth(self, clip: Clip) -> dict[str, Any]:
        """The fields of a prediction row that say what is true of a clip."""

    @abstractmethod
    def worths(self, output: FusionOutput, clips: Sequence[Clip]) -> list[tuple[float, float]]:
        """Of each clip: how right the prediction is, in [0, 1], and the log-probability of the truth."""

    @abstractmethod
    def predictions(self, output: FusionOutput, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """For each clip the fields of :class:`~mosear.evaluation.predictions.PredictionRow` that say what was true and
        what was predicted."""

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`fit` chose."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        return


def joined(outputs: Sequence[FusionOutput]) -> Tensor:
    """The values of several batches without time, ``[N, outputs]``."""
    return torch.cat([output.values for output in outputs])
