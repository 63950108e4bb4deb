"""A number per clip, such as a sentiment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from mosear.data.clip import Clip
from mosear.evaluation.metrics.regression import ccc, mae, pearson
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionOutput
from mosear.fusion.tasks.base import Task, joined


class ScoreTask(Task):
    """Regression of the column ``score``.

    Args:
        labels: classes that scores are shown as.
        levels: the score that each label stands for; a score belongs to the nearest.
        error: ``absolute`` or ``squared``, which is minimised.
    """

    name = "score"

    def __init__(
        self,
        labels: Sequence[str],
        *,
        levels: Mapping[str, float] | None,
        error: Literal["absolute", "squared"] = "absolute",
    ) -> None:
        super().__init__(labels)
        if error not in ("absolute", "squared"):
            raise ValueError(f"error={error!r} must be 'absolute' or 'squared'.")
        if set(levels or {}) != set(labels):
            raise ValueError(
                f"levels must give a score to exactly the labels {', '.join(labels)}; they name "
                f"{', '.join(levels or {}) or 'none'}. Set task.levels, e.g. {{negative: -1, positive: 1}}."
            )
        self.levels, self.error = {name: float(value) for name, value in (levels or {}).items()}, error

    @property
    def outputs(self) -> int:
        """The score."""
        return 1

    def problem(self, clip: Clip) -> str | None:
        """It needs a score."""
        return "it has no score (manifest column score)" if clip.score is None else None

    def targets(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """``score``: float32 ``[B]``."""
        return {"score": torch.tensor([float(clip.score or 0.0) for clip in clips])}

    def loss(self, output: FusionOutput, batch: FeatureBatch) -> Tensor:
        """Mean absolute or squared error."""
        measure = functional.l1_loss if self.error == "absolute" else functional.mse_loss
        return measure(output.values[:, 0], batch.targets["score"])

    def validation(self, outputs: Sequence[FusionOutput], clips: Sequence[Clip]) -> dict[str, float]:
        """``loss``, ``mae``, ``pearson`` and ``ccc``."""
        values, truth = joined(outputs)[:, 0].float(), self.targets(clips)["score"]
        loss = float((values - truth).abs().mean() if self.error == "absolute" else (values - truth).square().mean())
        found = {"loss": loss}
        if bool(values.isfinite().all()):
            pair = truth.numpy(), values.numpy()
            found |= {"mae": mae(*pair), "pearson": pearson(*pair), "ccc": ccc(*pair, ignore=None)}
        return found

    def truth(self, clip: Clip) -> dict[str, Any]:
        """The score and its class."""
        return {"label": self.nearest(float(clip.score or 0.0)), "score": clip.score}

    def nearest(self, score: float) -> str:
        """The label whose level is next; of two at the same distance the first."""
        return min(self.labels, key=lambda name: abs(self.levels[name] - score))

    def worths(self, output: FusionOutput, clips: Sequence[Clip]) -> list[tuple[float, float]]:
        """Whether the class is right, and minus the absolute error: the log-density of a Laplace distribution around
        the prediction, up to a constant."""
        found = []
        for clip, value in zip(clips, output.values[:, 0].double().tolist(), strict=True):
            right = math.isfinite(value) and self.nearest(value) == self.truth(clip)["label"]
            found.append((float(right), -abs(value - float(clip.score or 0.0))))
        return found

    def predictions(self, output: FusionOutput, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """The score and its class; none where it is not finite."""
        found = []
        for clip, value in zip(clips, output.values[:, 0].double().tolist(), strict=True):
            if math.isfinite(value):
                answer: dict[str, Any] = {"prediction": self.nearest(value), "predicted_score": value}
            else:
                answer = {"prediction": None, "unparsed_reason": "the model's output is not finite"}
            found.append({**self.truth(clip), **answer})
        return found
