"""Late fusion: one embedding per modality, concatenated, and a classifier for emotion and sentiment (arXiv 2503.06805).

The publication trains four encoders on their own and concatenates what they put out. Here the encoders are whatever
made the features, frozen; any set of modalities is read (text, audio, face, video, ...).

    h_m = mean_t x_m[t]                                       [D_m]
    e_m = Dropout(ReLU(W_m LayerNorm(h_m) + b_m))             [width], 0 where the modality is missing
    z   = Dropout(ReLU(W [e_1; ...; e_M] + b))                [hidden]
    y   = U z + c                                             [outputs]: emotion, or what the task asks for
    s   = V z + d                                             [3]: negative, neutral, positive
    L   = L_task(y) + sentiment_weight * CE(s, sentiment of the label)

A label whose sentiment is null (MELD's surprise is either) counts in the first term alone; without a mapping there is
no second head. Pooling, widths and dropout are our reading; the published sizes are not known to us.

*Deviations*: one classifier learns both targets together, on features that no emotion loss has shaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import mean_over_time
from mosear.fusion.tasks import Task
from mosear.settings import AtLeastOne, NotNegative, Share, arguments

SENTIMENTS: Final = ("negative", "neutral", "positive")
_NONE: Final = -1


class LateFusion(FusionModel):
    """See the module's docstring.

    Args:
        dimensions: see :class:`~mosear.fusion.model.FusionModel`.
        outputs: likewise.
        width: of a modality's embedding.
        hidden: width of the classifier.
        dropout: on embeddings and in the classifier.
        sentiment: the sentiment of each label; ``None`` = no second head, and a label may have none.
        sentiment_weight: of its loss.
    """

    @arguments
    def __init__(
        self,
        dimensions: Mapping[str, int],
        outputs: int,
        *,
        width: AtLeastOne = 256,
        hidden: AtLeastOne = 256,
        dropout: Share = 0.3,
        sentiment: Mapping[str, Literal["negative", "neutral", "positive"] | None] | None = None,
        sentiment_weight: NotNegative = 1.0,
    ) -> None:
        super().__init__(dimensions, outputs)
        self.sentiment_of = None if sentiment is None else dict(sentiment)
        self.sentiment_weight = sentiment_weight
        self.norms = nn.ModuleDict({name: nn.LayerNorm(size) for name, size in dimensions.items()})
        self.projections = nn.ModuleDict({name: nn.Linear(size, width) for name, size in dimensions.items()})
        self.hidden = nn.Linear(width * len(dimensions), hidden)
        self.head = nn.Linear(hidden, outputs)
        self.sentiment_head = None if sentiment is None else nn.Linear(hidden, len(SENTIMENTS))
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, outputs]``; ``extras["sentiment"]``: logits ``[B, 3]`` in the order of :data:`SENTIMENTS`."""
        embedded = torch.cat([self._embedded(batch, name) for name in self.dimensions], dim=-1)
        z = self.dropout(functional.relu(self.hidden(embedded)))
        extras = {} if self.sentiment_head is None else {"sentiment": self.sentiment_head(z)}
        return FusionOutput(self.head(z), extras=extras)

    def _embedded(self, batch: FeatureBatch, name: str) -> Tensor:
        mean = mean_over_time(batch.features[name], batch.lengths[name])
        embedded = self.dropout(functional.relu(self.projections[name](self.norms[name](mean))))
        return embedded.masked_fill(~batch.present(name)[:, None], 0.0)

    def loss(self, output: FusionOutput, batch: FeatureBatch, task: Task) -> dict[str, Tensor]:
        """``loss`` = ``task_loss`` + ``sentiment_weight`` x ``sentiment_loss``."""
        task_loss = task.loss(output, batch)
        if self.sentiment_of is None:
            return {"loss": task_loss}
        classes = self._sentiment_classes(task).to(output.values.device)
        truth = classes[batch.targets["label"]]
        counted = (truth != _NONE).sum().clamp(min=1)
        summed = functional.cross_entropy(output.extras["sentiment"], truth, ignore_index=_NONE, reduction="sum")
        sentiment_loss = summed / counted
        total = task_loss + self.sentiment_weight * sentiment_loss
        return {"loss": total, "task_loss": task_loss, "sentiment_loss": sentiment_loss}

    def _sentiment_classes(self, task: Task) -> Tensor:
        """Of each label of the task its sentiment's index, or -1."""
        mapping = self.sentiment_of or {}
        if task.name != "label":
            raise ValueError(
                f"model.sentiment maps labels, and the task is {task.name!r}. Set model.sentiment=null, or task=label."
            )
        unknown = [label for label in task.labels if label not in mapping]
        if unknown:
            raise ValueError(
                f"model.sentiment has no entry for {', '.join(unknown)}. Add it (negative, neutral, positive or null),"
                " or set model.sentiment=null."
            )
        found = [mapping[label] for label in task.labels]
        return torch.tensor([_NONE if name is None else SENTIMENTS.index(name) for name in found])
