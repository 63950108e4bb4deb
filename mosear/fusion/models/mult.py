"""MulT: directional cross-modal transformers (Tsai et al., ACL 2019), with the sizes of MMSA.

    u_m     = Conv_m(Dropout(x_m))                                [T'_m, d]        T' = T - kernel + 1; dropout on text
    h_{m<-s}= Cross(u_m, u_s)                                     [T'_m, d]        every other modality s
    h_m     = Self([h_{m<-s} for all s])_last                     [(M - 1) d]
    h       = [h_1; ...; h_M]
    y       = W_3 (h + W_2 Dropout(ReLU(W_1 h)))                  [outputs]

A Cross layer, of which there are ``layers``, begins with x = sqrt(d) u_m and k = sqrt(d) u_s:

    x <- x + Dropout(Attention(N x, N k, N k)),  x <- x + Dropout(F_2 Dropout(ReLU(F_1 N' x)))

with one layer norm N for queries and keys, and a layer norm behind the last layer. Self is the same with k = x and at
least three layers. Query i reads key j if j <= i + |T'_m - T'_s|. There are no positions (MMSA turns them off); this
mask alone orders the steps.

A missing modality is one step of zeros as a source, and zeros as a target (h_m = 0).

*Deviations* from MMSA's code:

- Lengths are those of each clip: keys behind them are not read, the mask's offset and the last step are the clip's own
  (there: of the padded block). A sequence shorter than the kernel is filled up with zeros.
- Any two or more modalities; modalities beside text and audio have the video's kernel and dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import last_step, without_padding
from mosear.settings import AtLeastOne, Share, arguments

_LEAST_SELF_LAYERS = 3


class MulT(FusionModel):
    """See the module's docstring.

    Args:
        dimensions: see :class:`~mosear.fusion.model.FusionModel`; a modality that is already d wide is not convolved.
        outputs: likewise.
        width: d.
        heads: of every attention.
        layers: of every cross-modal transformer.
        text_kernel: of the text's convolution.
        audio_kernel: of the audio's.
        video_kernel: of every other modality's.
        text_dropout: on text features.
        attention_dropout: of attention to text, and of Self.
        audio_attention_dropout: of attention to audio.
        video_attention_dropout: of attention to every other modality.
        embedding_dropout: on what goes into a transformer.
        feed_forward_dropout: between the two maps of a feed-forward block.
        residual_dropout: on what is added to the residual stream.
        output_dropout: in the classifier.
        causal: whether the mask orders the steps.
    """

    @arguments
    def __init__(
        self,
        dimensions: Mapping[str, int],
        outputs: int,
        *,
        width: AtLeastOne = 30,
        heads: AtLeastOne = 6,
        layers: AtLeastOne = 4,
        text_kernel: AtLeastOne = 5,
        audio_kernel: AtLeastOne = 1,
        video_kernel: AtLeastOne = 3,
        text_dropout: Share = 0.3,
        attention_dropout: Share = 0.4,
        audio_attention_dropout: Share = 0.0,
        video_attention_dropout: Share = 0.0,
        embedding_dropout: Share = 0.0,
        feed_forward_dropout: Share = 0.0,
        residual_dropout: Share = 0.0,
        output_dropout: Share = 0.5,
        causal: bool = True,
    ) -> None:
        super().__init__(dimensions, outputs)
        _check(dimensions, width, heads)
        names, count = list(dimensions), len(dimensions)
        self.kernels = {name: {"text": text_kernel, "audio": audio_kernel}.get(name, video_kernel) for name in names}
        seen = {"text": attention_dropout, "audio": audio_attention_dropout}
        drops = {name: seen.get(name, video_attention_dropout) for name in names}
        common = (heads, embedding_dropout, feed_forward_dropout, residual_dropout, causal)
        self.convolutions = nn.ModuleDict(
            {
                name: nn.Conv1d(size, width, self.kernels[name], bias=False)
                for name, size in dimensions.items()
                if size != width
            }
        )
        self.text_dropout = nn.Dropout(text_dropout)
        self.crosses = nn.ModuleDict(
            {
                f"{name}_from_{source}": Transformer(width, layers, drops[source], *common)
                for name, source in permutations(names, 2)
            }
        )
        wide = (count - 1) * width
        self.selves = nn.ModuleDict(
            {name: Transformer(wide, max(layers, _LEAST_SELF_LAYERS), attention_dropout, *common) for name in names}
        )
        self.first, self.second = nn.Linear(count * wide, count * wide), nn.Linear(count * wide, count * wide)
        self.output_dropout = nn.Dropout(output_dropout)
        self.last = nn.Linear(count * wide, outputs)

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, outputs]``; ``extras["fused"]``: h."""
        embedded = {name: self._embedded(batch, name) for name in self.dimensions}
        last = []
        for name, (u, lengths) in embedded.items():
            others = [source for source in self.dimensions if source != name]
            crossed = [self.crosses[f"{name}_from_{source}"](u, lengths, *embedded[source]) for source in others]
            both = torch.cat(crossed, dim=-1)
            last.append(last_step(self.selves[name](both, lengths, both, lengths), lengths))
            last[-1] = last[-1].masked_fill(~batch.present(name)[:, None], 0.0)
        h = torch.cat(last, dim=-1)
        hidden = self.output_dropout(functional.relu(self.first(h)))
        return FusionOutput(self.last(h + self.second(hidden)), extras={"fused": h})

    def _embedded(self, batch: FeatureBatch, name: str) -> tuple[Tensor, Tensor]:
        """u ``[B, T', d]`` and T' of each clip, at least 1."""
        values, lengths = without_padding(batch.features[name], batch.lengths[name]), batch.lengths[name]
        if name == "text":
            values = self.text_dropout(values)
        if name not in self.convolutions:
            return values, lengths.clamp(min=1)
        lost = self.kernels[name] - 1
        filled = functional.pad(values.transpose(1, 2), (0, lost))  # enough for the shortest clip
        return self.convolutions[name](filled).transpose(1, 2), (lengths - lost).clamp(min=1)


class Transformer(nn.Module):
    """Cross, and Self where source and target are the same tensor."""

    def __init__(
        self,
        width: int,
        layers: int,
        attention_dropout: float,
        heads: int,
        embedding_dropout: float,
        feed_forward_dropout: float,
        residual_dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        self.scale, self.heads, self.causal = width**0.5, heads, causal
        self.dropout = nn.Dropout(embedding_dropout)
        self.layers = nn.ModuleList(
            _Layer(width, heads, attention_dropout, feed_forward_dropout, residual_dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, target: Tensor, target_lengths: Tensor, source: Tensor, source_lengths: Tensor) -> Tensor:
        """``[B, T, width]`` and ``[B, S, width]`` to ``[B, T, width]``."""
        hidden = self._hidden(target.shape[1], target_lengths, source.shape[1], source_lengths)
        x = self.dropout(self.scale * target)
        keys = None if source is target else self.dropout(self.scale * source)
        for layer in self.layers:
            x = layer(x, keys, hidden)
        return self.norm(x)

    def _hidden(self, steps: int, lengths: Tensor, source_steps: int, source_lengths: Tensor) -> Tensor:
        """bool ``[B x heads, T, S]``, True where a query must not read a key."""
        i = torch.arange(steps, device=lengths.device)[None, :, None]
        j = torch.arange(source_steps, device=lengths.device)[None, None]
        hidden = (j >= source_lengths[:, None, None]).expand(-1, steps, -1)
        if self.causal:
            hidden = hidden | (j > i + (source_lengths - lengths).abs()[:, None, None])
        return hidden.repeat_interleave(self.heads, dim=0)


class _Layer(nn.Module):
    def __init__(
        self, width: int, heads: int, attention_dropout: float, feed_forward_dropout: float, residual_dropout: float
    ) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=attention_dropout, batch_first=True)
        self.norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.feed_forward_dropout, self.dropout = nn.Dropout(feed_forward_dropout), nn.Dropout(residual_dropout)

    def forward(self, x: Tensor, keys: Tensor | None, hidden: Tensor) -> Tensor:
        """``keys`` are x itself where there are none."""
        queries = self.norm(x)
        read = queries if keys is None else self.norm(keys)
        attended, _ = self.attention(queries, read, read, attn_mask=hidden, need_weights=False)
        x = x + self.dropout(attended)
        inner = self.feed_forward_dropout(functional.relu(self.first(self.feed_forward_norm(x))))
        return x + self.dropout(self.second(inner))


def _check(dimensions: Mapping[str, int], width: int, heads: int) -> None:
    if len(dimensions) < 2:
        raise ValueError(f"MulT crosses modalities and needs two or more; there is {', '.join(dimensions) or 'none'}.")
    if width % heads:
        raise ValueError(f"MulT: width={width} must be a multiple of heads={heads}.")
