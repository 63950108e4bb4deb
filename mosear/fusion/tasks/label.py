"""One label per clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mosear.data.clip import Clip
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionOutput
from mosear.fusion.tasks.base import Task, joined


class LabelTask(Task):
    """Softmax over the label list, cross-entropy."""

    name = "label"

    @property
    def outputs(self) -> int:
        """One logit per label."""
        return len(self.labels)

    def problem(self, clip: Clip) -> str | None:
        """It needs a label of the list."""
        return None if clip.label in self.labels else f"label {clip.label!r} is not one of {', '.join(self.labels)}"

    def targets(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """``label``: int64 ``[B]``."""
        return {"label": torch.tensor([self.labels.index(str(clip.label)) for clip in clips])}

    def loss(self, output: FusionOutput, batch: FeatureBatch) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(output.values, batch.targets["label"])

    def validation(self, outputs: Sequence[FusionOutput], clips: Sequence[Clip]) -> dict[str, float]:
        """``loss`` and ``accuracy``."""
        values, truth = joined(outputs).float(), self.targets(clips)["label"]
        right = (values.argmax(-1) == truth) & values.isfinite().all(-1)
        return {"loss": float(functional.cross_entropy(values, truth)), "accuracy": float(right.float().mean())}

    def truth(self, clip: Clip) -> dict[str, Any]:
        """Its label."""
        return {"label": clip.label}

    def worths(self, output: FusionOutput, clips: Sequence[Clip]) -> list[tuple[float, float]]:
        """Whether the label comes first, and its log-probability."""
        log_probs, truth = output.values.double().log_softmax(-1).cpu(), self.targets(clips)["label"]
        right = (log_probs.argmax(-1) == truth).double()
        return list(zip(right.tolist(), log_probs.gather(-1, truth[:, None])[:, 0].tolist(), strict=True))

    def predictions(self, output: FusionOutput, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """The most likely label and the distribution; none where a number is not finite."""
        found = []
        for clip, p in zip(clips, output.values.double().softmax(-1), strict=True):
            if bool(p.isfinite().all()):
                answer = {"prediction": self.labels[int(p.argmax())], "distribution": p.tolist()}
            else:
                answer = {"prediction": None, "unparsed_reason": "the model's output is not finite"}
            found.append({**self.truth(clip), **answer})
        return found
