"""GRJCA: gated recursive joint cross-attention for valence and arousal over time (arXiv 2503.12261).

Modalities m = 1..M on one time axis of T steps, width d (512); iterations l = 1..L.

    X_m^0 = BiLSTM_m(x_m / |x_m|)                                          [T, d]     see ResidualBiLSTM
    J     = [X_1; ...; X_M] W_j                                           [T, M d]
    C_m   = Dropout(tanh((X_m W_k)' J / sqrt(M d)))                        [d, M d]
    H_m   = ReLU(tanh((X_m W_v) C_m))                                      [T, M d]
    X_m^l = X_m^{l-1} + Dropout(ReLU(H_m W_o))                             own weights for each iteration

    gate   G = softmax(X_m^l W_g / 0.1), W_g: d -> 2;   A_m^l = ReLU(G_0 X_m^0 + G_1 X_m^l)
    stages S = softmax_l(A_m^l w_s / 0.1);              A_m   = sum_l S_l A_m^l
    y      = heads(BiLSTM([A_1; ...; A_M]))                                heads d -> 128 -> 1, one per dimension

``gating``: ``stages`` as above; ``last`` gates the last iteration alone (Dynamic-CrossAttention); ``none`` takes X_m^L
(RJCA). No code of GRJCA is public: what a gate mixes is as in Dynamic-CrossAttention, how the stage gate scores an
iteration is our reading.

Per step for the task ``series``: ``values`` ``[B, T, outputs]``. For other tasks one head reads the mean over time.

Time axis: all modalities of a clip are resampled linearly to the length of its longest, or to ``steps``. A missing
modality is zeros at every stage. Windows are the data's.

Size with 512 wide video and audio, per step, two outputs: 15,634,434 parameters for ``none`` with one iteration,
18,786,310 for ``last`` with two, 18,789,388 for ``stages`` with two. The public code has 15,947,859 (RJCA) and
18,574,967 (Dynamic-CrossAttention): 838,193 more in the attention over regions, 272 instead of 262,656 in each W_k.

*Deviations*:

- W_k acts on features. The public code's acts on time (T x T with T = 16), so it reads sequences of that one length.
- Features come in as vectors, so the attention over 7 x 7 regions before the video's BiLSTM does not exist.
- Any number of modalities; a linear map before the BiLSTM where a modality is not d wide.
- The learning rate is the optimiser's; the code's schedule overwrites its own plateau schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import mean_over_time, resampled, through_lstm, without_padding
from mosear.settings import AtLeastOne, Positive, Share, arguments


class GRJCA(FusionModel):
    """See the module's docstring.

    Args:
        dimensions: see :class:`~mosear.fusion.model.FusionModel`.
        outputs: likewise.
        over_time: an output per step (valence and arousal), not per clip; the system says it, by the task.
        width: d, even.
        iterations: L.
        gating: ``stages``, ``last`` or ``none``.
        gate_temperature: of both gates.
        lstm_layers: of every BiLSTM.
        lstm_dropout: of the modalities' BiLSTMs.
        dropout: in the attention and the heads.
        head: width of the heads' hidden layer.
        steps: length of the time axis; ``None`` = each clip's longest modality.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"series", "label", "score", "labels"})

    @arguments
    def __init__(
        self,
        dimensions: Mapping[str, int],
        outputs: int,
        *,
        over_time: bool = False,
        width: AtLeastOne = 512,
        iterations: AtLeastOne = 2,
        gating: Literal["stages", "last", "none"] = "stages",
        gate_temperature: Positive = 0.1,
        lstm_layers: AtLeastOne = 2,
        lstm_dropout: Share = 0.1,
        dropout: Share = 0.6,
        head: AtLeastOne = 128,
        steps: AtLeastOne | None = None,
    ) -> None:
        super().__init__(dimensions, outputs)
        if width % 2:
            raise ValueError(f"GRJCA: width={width} must be even, because each direction of a BiLSTM gets half of it.")
        self.over_time, self.steps = over_time, steps
        self.projections = nn.ModuleDict(
            {name: nn.Identity() if size == width else nn.Linear(size, width) for name, size in dimensions.items()}
        )
        self.encoders = nn.ModuleDict(
            {name: ResidualBiLSTM(width, width, lstm_layers, lstm_dropout) for name in dimensions}
        )
        self.attention = nn.ModuleList(JointCrossAttention(list(dimensions), width, dropout) for _ in range(iterations))
        self.gates = nn.ModuleDict({name: _Gates(gating, width, iterations, gate_temperature) for name in dimensions})
        self.joint = ResidualBiLSTM(width * len(dimensions), width, lstm_layers, 0.0)
        sizes = [1] * outputs if over_time else [outputs]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, head), nn.ReLU(), nn.Dropout(dropout), nn.Linear(head, size))
            for size in sizes
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, T, outputs]`` with steps, or ``[B, outputs]``."""
        steps = self._steps(batch)
        start = {name: self._encoded(batch, name, steps) for name in self.dimensions}
        stages, here = [], start
        for layer in self.attention:
            here = layer(here, steps)
            here = {name: values.masked_fill(~batch.present(name)[:, None, None], 0.0) for name, values in here.items()}
            stages.append(here)
        gated = [self.gates[name](start[name], [stage[name] for stage in stages]) for name in self.dimensions]
        fused = self.joint(torch.cat(gated, dim=-1), steps)
        if self.over_time:
            return FusionOutput(torch.cat([head(fused) for head in self.heads], dim=-1), steps)
        return FusionOutput(self.heads[0](mean_over_time(fused, steps)))

    def _steps(self, batch: FeatureBatch) -> Tensor:
        """T of each clip, at least 1."""
        longest = torch.stack([batch.lengths[name] for name in self.dimensions]).amax(0).clamp(min=1)
        return longest if self.steps is None else torch.full_like(longest, self.steps)

    def _encoded(self, batch: FeatureBatch, name: str, steps: Tensor) -> Tensor:
        """X_m^0 ``[B, T, d]``."""
        values = resampled(without_padding(batch.features[name], batch.lengths[name]), batch.lengths[name], steps)
        encoded = self.encoders[name](functional.normalize(self.projections[name](values), dim=-1), steps)
        return encoded.masked_fill(~batch.present(name)[:, None, None], 0.0)


class JointCrossAttention(nn.Module):
    """One iteration: X_m^{l-1} to X_m^l."""

    def __init__(self, names: list[str], width: int, dropout: float) -> None:
        super().__init__()
        joint = width * len(names)
        self.query = nn.Linear(joint, joint)
        self.keys = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.values = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.outs = nn.ModuleDict({name: nn.Linear(joint, width) for name in names})
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Mapping[str, Tensor], steps: Tensor) -> dict[str, Tensor]:
        """``[B, T, d]`` each."""
        joint = without_padding(self.query(torch.cat(list(features.values()), dim=-1)), steps)
        found = {}
        for name, x in features.items():
            scores = self.keys[name](x).transpose(1, 2) @ joint / joint.shape[-1] ** 0.5
            weights = self.dropout(torch.tanh(scores))
            attended = functional.relu(torch.tanh(self.values[name](x) @ weights))
            found[name] = without_padding(x + self.dropout(functional.relu(self.outs[name](attended))), steps)
        return found


class ResidualBiLSTM(nn.Module):
    """y = W [x; BiLSTM(x)], scaled to length 1 at every step; the initial states are learned."""

    def __init__(self, size: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(size, width // 2, layers, batch_first=True, bidirectional=True, dropout=between)
        self.start = nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * 2 * layers, width // 2)))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(size + width, width)

    def forward(self, values: Tensor, steps: Tensor) -> Tensor:
        """``[B, T, size]`` to ``[B, T, width]``, zeros behind the steps."""
        hidden, cell = self.start[:, None].expand(-1, len(values), -1).contiguous().chunk(2)
        read, _ = through_lstm(self.lstm, values, steps, (hidden, cell))
        mixed = self.out(self.dropout(torch.cat([values, read], dim=-1)))
        return without_padding(functional.normalize(mixed, dim=-1), steps)


class _Gates(nn.Module):
    """Of one modality: the input and all iterations to what is fused."""

    def __init__(self, gating: str, width: int, iterations: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        count = {"stages": iterations, "last": 1, "none": 0}[gating]
        self.gates = nn.ModuleList(nn.Linear(width, 2) for _ in range(count))
        self.stage = nn.Linear(width, 1) if gating == "stages" and iterations > 1 else None

    def forward(self, start: Tensor, stages: list[Tensor]) -> Tensor:
        """``[B, T, d]``."""
        if not self.gates:
            return stages[-1]
        gated = []
        for gate, attended in zip(self.gates, stages[-len(self.gates) :], strict=True):
            share = (gate(attended) / self.temperature).softmax(-1)
            gated.append(functional.relu(share[..., :1] * start + share[..., 1:] * attended))
        if self.stage is None:
            return gated[-1]
        every = torch.stack(gated, dim=-2)  # [B, T, L, d]
        share = (self.stage(every) / self.temperature).softmax(-2)
        return (share * every).sum(-2)
