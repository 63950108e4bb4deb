"""Valence and arousal over time, as on Aff-Wild2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosear.data.clip import Clip
from mosear.data.series import DIMENSIONS
from mosear.evaluation import metrics
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.ccc import ccc_loss
from mosear.fusion.model import FusionOutput
from mosear.fusion.sequences import resampled
from mosear.fusion.tasks.base import Task


class SeriesTask(Task):
    """Regression of the column ``series``; 1 - CCC of valence plus that of arousal over the steps of a whole batch.

    A model's steps are brought to those of the annotation by linear interpolation; steps without annotation count
    nowhere.

    Args:
        labels: classes that a clip's mean valence and arousal are shown as.
        levels: valence and arousal of each label, perhaps of others too; a clip belongs to the nearest.
    """

    name = "series"
    over_time = True

    def __init__(self, labels: Sequence[str], *, levels: Mapping[str, Sequence[float]] | None) -> None:
        super().__init__(labels)
        found = {name: own for name, own in (levels or {}).items() if name in labels}
        if set(found) != set(labels) or any(len(own) != 2 for own in found.values()):
            raise ValueError(
                f"levels must give valence and arousal to each of the labels {', '.join(labels)}, such as "
                f"{{happy: [0.8, 0.5]}}; got {dict(levels or {})}. Write '+task.levels={{LABEL:[V,A],...}}'."
            )
        self.levels = {name: (float(own[0]), float(own[1])) for name, own in found.items()}

    @property
    def outputs(self) -> int:
        """Valence and arousal."""
        return 2

    def problem(self, clip: Clip) -> str | None:
        """It needs an annotated step."""
        if clip.series is None:
            return "it has no valence and arousal over time (manifest column series)"
        return None if bool(np.isfinite(annotated(clip)).any()) else "none of its steps is annotated"

    def targets(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """``series``: float32 ``[B, S, 2]``, NaN where nothing is annotated and behind a clip's end."""
        own = [torch.from_numpy(annotated(clip)).float() for clip in clips]
        longest = max(len(one) for one in own)
        padded = torch.full((len(own), longest, 2), math.nan)
        for row, one in enumerate(own):
            padded[row, : len(one)] = one
        return {"series": padded, "steps": torch.tensor([len(one) for one in own])}

    def loss(self, output: FusionOutput, batch: FeatureBatch) -> Tensor:
        """1 - CCC, summed over valence and arousal."""
        truth, steps = batch.targets["series"], batch.targets["steps"]
        return ccc_loss(self._aligned(output, steps), truth, truth.isfinite())

    def _aligned(self, output: FusionOutput, steps: Tensor) -> Tensor:
        """``[B, S, 2]`` on the steps of the annotation."""
        assert output.steps is not None, "a model of time series says how many steps mean something"
        return resampled(output.values, output.steps, steps)

    def validation(self, outputs: Sequence[FusionOutput], clips: Sequence[Clip]) -> dict[str, float]:
        """``loss`` over the whole set, ``ccc_valence`` and ``ccc_arousal``."""
        truth, found = self._flat(outputs, clips)
        scores = {
            f"ccc_{name}": metrics.ccc(truth[kept, column], found[kept, column], ignore=None)
            for column, name in enumerate(DIMENSIONS)
            if (kept := np.isfinite(truth[:, column])).any()
        }
        return {"loss": sum(1 - value for value in scores.values()), **scores}

    def _flat(self, outputs: Sequence[FusionOutput], clips: Sequence[Clip]) -> tuple[np.ndarray, np.ndarray]:
        """True and predicted steps of all clips below each other."""
        truth, found, first = [], [], 0
        for output in outputs:
            own = clips[first : first + len(output.values)]
            first += len(own)
            truth += [annotated(clip) for clip in own]
            found += self._predicted(output, own)
        return np.concatenate(truth), np.concatenate(found)

    def _predicted(self, output: FusionOutput, clips: Sequence[Clip]) -> list[np.ndarray]:
        steps = torch.tensor([len(annotated(clip)) for clip in clips], device=output.values.device)
        values = self._aligned(output, steps).double().cpu().numpy()
        return [value[:count] for value, count in zip(values, steps.tolist(), strict=True)]

    def truth(self, clip: Clip) -> dict[str, Any]:
        """The series, and the class of its mean."""
        own = annotated(clip)
        series = [tuple(value if math.isfinite(value) else None for value in step) for step in own.tolist()]
        return {"label": clip.label if clip.label in self.labels else self.nearest(own), "series": series}

    def nearest(self, series: np.ndarray) -> str:
        """The label next to the mean of the steps ``[T, 2]``, NaN left out."""
        known = [series[np.isfinite(series[:, column]), column] for column in range(2)]
        mean = [float(own.mean()) if len(own) else None for own in known]

        def distance(name: str) -> float:
            return sum((a - b) ** 2 for a, b in zip(mean, self.levels[name], strict=True) if a is not None)

        return min(self.labels, key=distance)

    def worths(self, output: FusionOutput, clips: Sequence[Clip]) -> list[tuple[float, float]]:
        """Whether the class is right, and minus the mean absolute error of the annotated steps."""
        found = []
        for clip, values in zip(clips, self._predicted(output, clips), strict=True):
            truth = annotated(clip)
            kept = np.isfinite(truth)
            finite = bool(np.isfinite(values).all())
            right = finite and self.nearest(values) == self.truth(clip)["label"]
            found.append((float(right), -float(np.abs(values - truth)[kept].mean())))
        return found

    def predictions(self, output: FusionOutput, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """Valence and arousal of each step, and the class of their mean; none where a number is not finite."""
        found = []
        for clip, values in zip(clips, self._predicted(output, clips), strict=True):
            if bool(np.isfinite(values).all()):
                series = [tuple(step) for step in values.tolist()]
                answer: dict[str, Any] = {"prediction": self.nearest(values), "predicted_series": series}
            else:
                answer = {"prediction": None, "unparsed_reason": "the model's output is not finite"}
            found.append({**self.truth(clip), **answer})
        return found


def annotated(clip: Clip) -> np.ndarray:
    """Valence and arousal of a clip, ``[T, 2]``, NaN where they are not known."""
    found = clip.annotations
    return np.full((1, 2), math.nan) if found is None else found.values
