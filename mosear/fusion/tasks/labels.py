"""A set of labels per clip, as on CMU-MOSEI's emotions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mosear.data.clip import Clip
from mosear.evaluation.metrics.multilabel import micro_scores, sample_jaccard
from mosear.evaluation.predictions import joined as set_text
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionOutput
from mosear.fusion.tasks.base import Task, joined


class LabelSetTask(Task):
    """Each label is there or not; binary cross-entropy; the labels above a threshold make the set.

    A clip without ``labels`` that has a ``label`` of the list counts as the set of that one.

    Args:
        labels: the label list.
        threshold: of a label's probability; ``None`` = the one that is best on validation data.
        criterion: what "best" means: ``micro_f1``, or ``jaccard``, the mean share of a clip's labels that are right.
    """

    name = "labels"

    def __init__(
        self,
        labels: Sequence[str],
        *,
        threshold: float | None = None,
        criterion: Literal["micro_f1", "jaccard"] = "micro_f1",
    ) -> None:
        super().__init__(labels)
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(
                f"threshold={threshold} must lie between 0 and 1, or be null to choose it on validation data."
            )
        if criterion not in ("micro_f1", "jaccard"):
            raise ValueError(f"criterion={criterion!r} must be 'micro_f1' or 'jaccard'.")
        self.fixed, self.criterion = threshold, criterion
        self.threshold = 0.5 if threshold is None else threshold

    @property
    def outputs(self) -> int:
        """One logit per label."""
        return len(self.labels)

    def problem(self, clip: Clip) -> str | None:
        """Its labels must be of the list."""
        foreign = [name for name in clip.labels if name not in self.labels]
        return f"labels {', '.join(foreign)} are not among {', '.join(self.labels)}" if foreign else None

    def labels_of(self, clip: Clip) -> list[str]:
        """In the order of the list."""
        own = clip.labels or ((clip.label,) if clip.label is not None else ())
        return [name for name in self.labels if name in own]

    def targets(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """``labels``: float32 ``[B, K]``, 1 where a label is there."""
        return {
            "labels": torch.tensor([[float(name in self.labels_of(clip)) for name in self.labels] for clip in clips])
        }

    def loss(self, output: FusionOutput, batch: FeatureBatch) -> Tensor:
        """Binary cross-entropy, a mean over clips and labels."""
        return functional.binary_cross_entropy_with_logits(output.values, batch.targets["labels"])

    def validation(self, outputs: Sequence[FusionOutput], clips: Sequence[Clip]) -> dict[str, float]:
        """``loss``, ``micro_f1``, ``jaccard`` and ``threshold``."""
        values, truth = joined(outputs).float(), self.targets(clips)["labels"]
        chosen = (values.sigmoid() >= self.threshold).numpy()
        return {
            "loss": float(functional.binary_cross_entropy_with_logits(values, truth)),
            "micro_f1": micro_scores(truth.numpy(), chosen)["f1"],
            "jaccard": sample_jaccard(truth.numpy(), chosen),
            "threshold": self.threshold,
        }

    def fit(self, outputs: Sequence[FusionOutput], clips: Sequence[Clip]) -> None:
        """The threshold of 0.05, 0.06, ... 0.95 with the best figure; of equal ones the middle one."""
        values = joined(outputs).float()
        if self.fixed is not None or not bool(values.isfinite().all()):
            return
        p, truth = values.sigmoid().numpy(), self.targets(clips)["labels"].numpy()
        grid = np.arange(5, 96) / 100
        measure = sample_jaccard if self.criterion == "jaccard" else lambda y, q: micro_scores(y, q)["f1"]
        found = np.array([measure(truth, p >= each) for each in grid])
        best = np.flatnonzero(found == found.max())
        self.threshold = float(grid[best[len(best) // 2]])

    def truth(self, clip: Clip) -> dict[str, Any]:
        """The set, and as text."""
        own = self.labels_of(clip)
        return {"label": set_text(own, self.labels), "labels": own}

    def worths(self, output: FusionOutput, clips: Sequence[Clip]) -> list[tuple[float, float]]:
        """Share of the labels that are right, and the log-probability of the whole set."""
        values, truth = output.values.double().cpu(), self.targets(clips)["labels"].double()
        chosen = (values.sigmoid() >= self.threshold).numpy()
        log_p = -functional.binary_cross_entropy_with_logits(values, truth, reduction="none").sum(-1)
        return [
            (sample_jaccard(y[None].numpy(), q[None]), float(worth))
            for y, q, worth in zip(truth, chosen, log_p, strict=True)
        ]

    def predictions(self, output: FusionOutput, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """The labels above the threshold; none where a number is not finite."""
        found = []
        for clip, p in zip(clips, output.values.double().sigmoid().tolist(), strict=True):
            if all(math.isfinite(value) for value in p):
                own = [name for name, value in zip(self.labels, p, strict=True) if value >= self.threshold]
                answer = {"prediction": set_text(own, self.labels), "predicted_labels": own, "distribution": p}
            else:
                answer = {"prediction": None, "unparsed_reason": "the model's output is not finite"}
            found.append({**self.truth(clip), **answer})
        return found

    def state_dict(self) -> dict[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self.threshold = float(state.get("threshold", self.threshold))
