"""What a gate said about the prompts of a pass, and the regularisers that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mosear.backbones.sequences import Regulariser, SequenceState
from mosear.experts.passes import GROUPS, OWNER, ForwardPass

if TYPE_CHECKING:
    from mosear.experts.config import MoSEConfig


@dataclass(frozen=True)
class GateRecord:
    """The last prompt pass of a state.

    Attributes:
        config: of the adapter that was active.
        last: the pass.
    """

    config: MoSEConfig
    last: ForwardPass

    def gate_weights(self) -> Tensor:
        """``[layers, B, 3]`` (visual, non-visual, omni)."""
        return torch.stack([self.last.weights[index] for index in sorted(self.last.weights)])

    def regularisers(self, *, counted: bool = True) -> Mapping[str, Regulariser]:
        """By name, fp32 ``[B]`` each; ``gate_kl`` is one number with ``kl_scope='global'``.

            gate_balance[b] = mean over layers of (w_v - w_n)^2
            gate_kl[b]      = mean over layers of sum_m w_m log(3 w_m)
            load_balance[b] = mean over projections and groups of  K sum_k (mean over tokens of g_mk)^2 - 1   (K > 1)

        Args:
            counted: False if this process only keeps the others company: its samples are in no global mean.
        """
        w = self.gate_weights()
        over_batch = self.config.kl_scope == "global"
        mean = _mean_of_all(w, counted) if over_batch else w
        balance = (w[..., 0] - w[..., 1]).square().mean(0)
        kl = (mean * (len(GROUPS) * mean).clamp(min=1e-12).log()).sum(-1).mean(0)
        found = {
            "gate_balance": Regulariser(balance, self.config.balance_weight),
            "gate_kl": Regulariser(kl, self.config.kl_weight, over_batch),
        }
        if self.last.loads:
            loads = torch.stack([load.to(w) for load in self.last.loads.values()])
            load_balance = (loads.shape[-1] * loads.square().sum(-1) - 1).mean(dim=(0, 2))
            found["load_balance"] = Regulariser(load_balance, self.config.load_balance_weight)
        return found


def gate_record(state: SequenceState) -> GateRecord | None:
    """What a gate said in the passes of a state; ``None`` without MoSE."""
    record = state.records.get(OWNER)
    assert record is None or isinstance(record, GateRecord)
    return record


def gate_weights(state: SequenceState) -> Tensor:
    """``[layers, B, 3]`` (visual, non-visual, omni) of the last prompt pass of a state; no layers without MoSE."""
    record = gate_record(state)
    return torch.zeros(0, 0, len(GROUPS)) if record is None else record.gate_weights()


def _mean_of_all(w: Tensor, counted: bool) -> Tensor:
    """``[layers, B, 3]`` to ``[layers, 1, 3]``: mean over samples and processes, differentiable."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return w.mean(1, keepdim=True)
    from torch.distributed.nn.functional import all_reduce

    samples = w.new_tensor(float(w.shape[1] * counted))
    distributed.all_reduce(samples)
    return all_reduce((w.sum(1, keepdim=True) * float(counted)).contiguous()) / samples
