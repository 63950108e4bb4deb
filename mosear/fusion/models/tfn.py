"""TFN: tensor fusion network (Zadeh et al., EMNLP 2017), with the sizes of MMSA.

    z_text = W LSTM(x_text)_last + b                                      [text_out]
    z_m    = ReLU MLP of three layers of Dropout(BatchNorm(mean_t x_m))   [hidden_m]   every other modality
    Z      = [1; z_1] (x) ... (x) [1; z_M]                                outer product, the text last
    y      = W_3 ReLU(W_2 ReLU(W_1 Dropout(vec Z)))                       [outputs]

A single output is brought into ``score_range`` (a, b): a + (b - a) sigmoid(y).

A missing modality has z = 0, so what is left of the product is the interactions of the others. Modalities beside text
and audio have the video's width.

*Deviations* from MMSA's code:

- Means and the LSTM's last state are those of the true length (there: of the padded one).
- The batch norm's running means leave out clips that lack the modality.
- No text dropout: with one LSTM layer the code sets it to 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import LastState, mean_over_time
from mosear.settings import AtLeastOne, Share, arguments

TEXT = "text"


class TFN(FusionModel):
    """See the module's docstring.

    Args:
        dimensions: see :class:`~mosear.fusion.model.FusionModel`.
        outputs: likewise.
        text_hidden: of the text's LSTM.
        text_out: width of z_text.
        audio_hidden: width of z_audio.
        video_hidden: width of z of every other modality.
        dropout: before the MLPs of the modalities.
        fusion_hidden: of the layers behind the product.
        fusion_dropout: on the product.
        score_range: bounds of a single output; ``None`` = unbounded.
    """

    @arguments
    def __init__(
        self,
        dimensions: Mapping[str, int],
        outputs: int,
        *,
        text_hidden: AtLeastOne = 128,
        text_out: AtLeastOne = 128,
        audio_hidden: AtLeastOne = 16,
        video_hidden: AtLeastOne = 128,
        dropout: Share = 0.4,
        fusion_hidden: AtLeastOne = 16,
        fusion_dropout: Share = 0.4,
        score_range: tuple[float, float] | None = (-3.0, 3.0),
    ) -> None:
        super().__init__(dimensions, outputs)
        if score_range is not None and not score_range[0] < score_range[1]:
            raise ValueError(f"TFN: score_range={list(score_range)} must be [lowest, highest].")
        self.score_range = score_range if outputs == 1 else None
        others = {name: audio_hidden if name == "audio" else video_hidden for name in dimensions if name != TEXT}
        self.subnets = nn.ModuleDict({name: _SubNet(dimensions[name], size, dropout) for name, size in others.items()})
        self.text = LastState(dimensions[TEXT], text_hidden, text_out) if TEXT in dimensions else None
        widths = [*others.values(), *([text_out] if self.text else [])]
        self.fusion_dropout = nn.Dropout(fusion_dropout)
        self.first = nn.Linear(math.prod(width + 1 for width in widths), fusion_hidden)
        self.second = nn.Linear(fusion_hidden, fusion_hidden)
        self.last = nn.Linear(fusion_hidden, outputs)

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, outputs]``; ``extras["fused"]``: vec Z."""
        parts = [(net(batch, name), batch.present(name)) for name, net in self.subnets.items()]
        if self.text is not None:
            parts.append((self.text(batch.features[TEXT], batch.lengths[TEXT]), batch.present(TEXT)))
        fused = torch.ones(len(batch), 1, device=parts[0][0].device, dtype=parts[0][0].dtype)
        for z, present in parts:
            with_one = functional.pad(z.masked_fill(~present[:, None], 0.0), (1, 0), value=1.0)
            fused = (fused[:, :, None] * with_one[:, None]).flatten(1)
        hidden = functional.relu(self.first(self.fusion_dropout(fused)))
        values = self.last(functional.relu(self.second(hidden)))
        if self.score_range is not None:
            lowest, highest = self.score_range
            values = lowest + (highest - lowest) * values.sigmoid()
        return FusionOutput(values, extras={"fused": fused})


class _SubNet(nn.Module):
    def __init__(self, size: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(size)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(nn.Linear(size if i == 0 else hidden, hidden) for i in range(3))

    def forward(self, batch: FeatureBatch, name: str) -> Tensor:
        """``[B, hidden]``."""
        z = self.dropout(self._normed(mean_over_time(batch.features[name], batch.lengths[name]), batch.present(name)))
        for layer in self.layers:
            z = functional.relu(layer(z))
        return z

    def _normed(self, mean: Tensor, present: Tensor) -> Tensor:
        own, norm = mean[present], self.norm
        if self.training and len(own) > 1:
            normed = norm(own)
        else:  # a single clip has no variance of its own
            normed = functional.batch_norm(
                own, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        return torch.zeros_like(mean).index_put((present,), normed.to(mean.dtype))
