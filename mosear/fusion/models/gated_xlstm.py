"""GatedxLSTM: streams of a conversation, each read by its own mLSTM, under gates (arXiv 2503.20919).

    x_s  = features of stream s; with ``steps``: their mean over time, cut into that many equal parts   [B, T_s, D_s]
    h_s  = Dropout(stack_s(W_s x_s)) at the last step;  0 where the stream is missing                    [B, hidden]
    g    = sigmoid(W_g mean_t x_1[t] + b_g)       of streams 2..S                                        [B, S - 1]
    y    = W [h_1; g_2 h_2; ...; g_S h_S] + b                                                            [B, outputs]

A stack is ``blocks`` mLSTM blocks (:mod:`mosear.fusion.mlstm`) and a layer norm.

A stream is a modality of the batch. Those of the paper, in their order:

    audio    partner_audio    text    partner_text         the utterance t, and what the other speaker said last
    audio-1  partner_audio-1  text-1  partner_text-1       the same of the utterance before
    audio-2  partner_audio-2  text-2  partner_text-2       and of the one before that

Streams without features are left out: data without dialogues have ``audio`` and ``text``. The first stream that is left
has no gate, and its features set the gates of the others.

The paper reads one vector of 512 numbers per utterance (LAION-CLAP) as 16 steps of 32, which is ``steps: 16``;
``steps: null`` reads a sequence of features as it is.

``extras``: ``gate_<stream>`` ``[B]``, 0 where the stream is missing.

Deviations:
  * The public code averages the gates over the batch, so that a prediction depends on batch mates. Here each clip has
    its own.
  * A missing utterance is a vector of zeros in the public code, read like any other; here it contributes nothing.
  * The public code keeps the stacks in a Python list, where neither the optimiser nor ``eval()`` finds them: they stay
    at their initial values, and their dropout is on in tests. Here they are trained.
  * Norms keep their weight as 1 + w in the ``xlstm`` package, here as w: weight decay pulls it towards 0 instead of 1.
  * A data set is split by whom mosear's manifests say, never at random over dialogues of the same speakers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.mlstm import MLSTMBlock
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import mean_over_time

STREAMS = tuple(
    f"{who}{what}{when}" for when in ("", "-1", "-2") for what in ("audio", "text") for who in ("", "partner_")
)


class GatedXLSTM(FusionModel):
    """See the module's docstring.

    Args:
        dimensions: width by modality.
        outputs: numbers per clip.
        streams: modalities in their order; those without features are left out.
        steps: parts into which the mean features of an utterance are cut; ``None`` = features are read as a sequence.
        hidden: width of the mLSTM blocks.
        blocks: of each stack.
        heads: of a block.
        kernel_size: of a block's convolution.
        block_size: of a block's block-diagonal maps.
        expansion: inner width of a block / hidden.
        dropout: of what a stack puts out.
    """

    def __init__(
        self,
        dimensions: Mapping[str, int],
        outputs: int,
        *,
        streams: Sequence[str] = STREAMS,
        steps: int | None = 16,
        hidden: int = 512,
        blocks: int = 8,
        heads: int = 4,
        kernel_size: int = 4,
        block_size: int = 4,
        expansion: int = 2,
        dropout: float = 0.3,
    ) -> None:
        there = [name for name in streams if name in dimensions]
        _check(streams, there, dimensions, steps)
        super().__init__({name: dimensions[name] for name in there}, outputs)
        self.steps, self.first, self.gated = steps, there[0], there[1:]
        widths = {name: size // (steps or 1) for name, size in self.dimensions.items()}
        self.stacks = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(width, hidden) if width != hidden else nn.Identity(),
                    *(MLSTMBlock(hidden, heads, kernel_size, block_size, expansion, blocks) for _ in range(blocks)),
                    nn.LayerNorm(hidden, bias=False),
                )
                for name, width in widths.items()
            }
        )
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(self.dimensions[self.first], len(self.gated)) if self.gated else None
        self.head = nn.Linear(len(there) * hidden, outputs)

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, outputs]``."""
        read = {name: self._read(batch, name) for name in self.dimensions}
        extras = {}
        if self.gate is not None:
            gates = self.gate(mean_over_time(batch.features[self.first], batch.lengths[self.first])).sigmoid()
            for name, gate in zip(self.gated, gates.unbind(-1), strict=True):
                extras[f"gate_{name}"] = gate * batch.present(name)
                read[name] = read[name] * gate[:, None]
        return FusionOutput(self.head(torch.cat(list(read.values()), dim=-1)), extras=extras)

    def _read(self, batch: FeatureBatch, name: str) -> Tensor:
        """``[B, hidden]``, zeros for clips without the stream."""
        present = batch.present(name)
        if self.steps is None:
            features = batch.features[name].masked_fill(~batch.mask(name)[..., None], 0.0)
            last = (batch.lengths[name] - 1).clamp(min=0)
        else:
            features = mean_over_time(batch.features[name], batch.lengths[name]).unflatten(-1, (self.steps, -1))
            last = torch.full_like(batch.lengths[name], self.steps - 1)
        hidden = self.stacks[name](features)
        found = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return self.dropout(found).masked_fill(~present[:, None], 0.0)


def _check(streams: Sequence[str], there: Sequence[str], dimensions: Mapping[str, int], steps: int | None) -> None:
    if len(set(streams)) != len(streams):
        raise ValueError(f"streams names a modality twice: {', '.join(streams)}. Name each once.")
    if not there:
        raise ValueError(
            f"None of the streams ({', '.join(streams)}) has features; these have {', '.join(dimensions)}. Choose "
            f"other features, or name streams among them: model.streams=[{','.join(dimensions)}]."
        )
    if steps is None:
        return
    uneven = [name for name in there if steps < 1 or dimensions[name] % steps]
    if uneven:
        raise ValueError(
            f"steps is {steps}, into which the {dimensions[uneven[0]]} numbers of {uneven[0]} cannot be cut evenly. "
            "Choose a divisor, or model.steps=null to read the features as a sequence."
        )
