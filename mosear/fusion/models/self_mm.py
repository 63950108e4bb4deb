"""Self-MM: scores of the whole and of each modality, the latter learned from labels that training makes (AAAI 2021).

    r_text = mean_t x_text[t]                                             [D_text]
    r_m    = W LSTM(x_m)_last + b                                         [out_m]     every other modality
    h_f    = ReLU(W_1 Dropout([r_1; ...; r_M]))                           likewise h_m of r_m alone
    y_s    = W_3 ReLU(W_2 h_s)                                            s = fusion and every modality
    L      = mean |y_f - Y| + sum_m mean tanh(|Y_m - Y|) |y_m - Y_m|

Y_m are the modality's labels, see :mod:`mosear.fusion.modality_labels`: they start as Y, so the modalities have no
weight until a clip is seen for the third time. ``values`` is y_f.

A missing modality has r = 0 in the fusion, and no term in the loss.

*Deviations* from MMSA's code:

- Text comes in as features, and its mean takes the place of the first token of a BERT that is tuned with the rest.
- How often a clip was seen takes the place of the epoch (the same, where every clip is seen once in each).
- Centres are means over clips that have been seen (there: zeros stand for those that were not, in the first epoch).
- Labels belong to one process: training in several is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.modality_labels import FUSION, ModalityLabels
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import LastState, mean_over_time
from mosear.fusion.tasks import Task
from mosear.settings import AtLeastOne, Positive, Share, arguments

TEXT = "text"


class SelfMM(FusionModel):
    """See the module's docstring.

    Args:
        dimensions: see :class:`~mosear.fusion.model.FusionModel`.
        outputs: 1.
        audio_hidden: of the audio's LSTM.
        video_hidden: of every other modality's LSTM.
        audio_out: width of r_audio.
        video_out: width of r of every other modality.
        fusion_width: of h_f.
        text_width: of h_text.
        audio_width: of h_audio.
        video_width: of every other modality's h.
        fusion_dropout: on what is fused.
        text_dropout: on r_text, for its own head.
        audio_dropout: likewise for audio.
        video_dropout: likewise for every other modality.
        limit: bound of labels that training makes.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"score"})

    @arguments
    def __init__(
        self,
        dimensions: Mapping[str, int],
        outputs: int,
        *,
        audio_hidden: AtLeastOne = 16,
        video_hidden: AtLeastOne = 32,
        audio_out: AtLeastOne = 16,
        video_out: AtLeastOne = 32,
        fusion_width: AtLeastOne = 128,
        text_width: AtLeastOne = 32,
        audio_width: AtLeastOne = 16,
        video_width: AtLeastOne = 32,
        fusion_dropout: Share = 0.1,
        text_dropout: Share = 0.0,
        audio_dropout: Share = 0.0,
        video_dropout: Share = 0.0,
        limit: Positive = 3.0,
    ) -> None:
        super().__init__(dimensions, outputs)
        if outputs != 1:
            raise ValueError(f"SelfMM predicts one score, and the task wants {outputs} outputs. Set task=score.")
        self.recurrent = nn.ModuleDict()
        views = {FUSION: (0, fusion_width, fusion_dropout)}
        for name, size in dimensions.items():
            if name == TEXT:
                views[name] = (size, text_width, text_dropout)
                continue
            audio = name == "audio"
            out = audio_out if audio else video_out
            self.recurrent[name] = LastState(size, audio_hidden if audio else video_hidden, out)
            views[name] = (out, audio_width if audio else video_width, audio_dropout if audio else video_dropout)
        views[FUSION] = (sum(size for size, _, _ in views.values()), fusion_width, fusion_dropout)
        self.heads = nn.ModuleDict({view: _Head(*sizes) for view, sizes in views.items()})
        self.labels = ModalityLabels({view: width for view, (_, width, _) in views.items()}, limit)

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, 1]``; ``extras``: ``h_VIEW`` and ``y_VIEW`` of each view."""
        read = {name: self._read(batch, name) for name in self.dimensions}
        inputs = {FUSION: torch.cat(list(read.values()), dim=-1), **read}
        hidden = {view: head(inputs[view]) for view, head in self.heads.items()}
        extras = {f"h_{view}": h for view, (h, _) in hidden.items()}
        extras |= {f"y_{view}": y[:, 0] for view, (_, y) in hidden.items()}
        return FusionOutput(hidden[FUSION][1], extras=extras)

    def _read(self, batch: FeatureBatch, name: str) -> Tensor:
        values, lengths = batch.features[name], batch.lengths[name]
        if name == TEXT:
            return mean_over_time(values, lengths)
        return self.recurrent[name](values, lengths).masked_fill(~batch.present(name)[:, None], 0.0)

    def loss(self, output: FusionOutput, batch: FeatureBatch, task: Task) -> dict[str, Tensor]:
        """``loss`` and its part of each view; in training mode the modalities' labels go on."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise ValueError(
                "model=self_mm keeps labels of every training clip in one process. Set trainer.devices=1 and "
                "trainer.num_nodes=1."
            )
        rows = self.labels.rows([clip.id for clip in batch.clips], batch.targets["score"])
        truth = self.labels.labels(rows)
        everyone = torch.ones(len(batch), dtype=torch.bool, device=rows.device)
        present = {view: everyone if view == FUSION else batch.present(view) for view in truth}
        parts = {}
        for view, label in truth.items():
            error = (output.extras[f"y_{view}"].float() - label).abs()
            weight = torch.ones_like(label) if view == FUSION else torch.tanh((label - truth[FUSION]).abs())
            cells = torch.where(present[view], weight * error, torch.zeros_like(error))
            parts[f"{view}_loss"] = cells.sum() / present[view].sum().clamp(min=1)
        if self.training:
            features = {view: output.extras[f"h_{view}"].detach() for view in truth}
            self.labels.update(rows, features, present)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def get_extra_state(self) -> Tensor:
        """The labels, for a training that goes on."""
        return self.labels.state()

    def set_extra_state(self, state: Tensor) -> None:
        """Put them back."""
        self.labels.load(state)


class _Head(nn.Module):
    def __init__(self, size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.first, self.second, self.last = nn.Linear(size, width), nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """h ``[B, width]`` and y ``[B, 1]``."""
        h = functional.relu(self.first(self.dropout(r)))
        return h, self.last(functional.relu(self.second(h)))
