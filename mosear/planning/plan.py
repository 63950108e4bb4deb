"""What lies in a GPU's memory all the time, by trainer: weights, adapter, gradients, optimiser, communication buffers.

Bytes per process, with P the adapter's parameters (float32), N processes, W the bytes of frozen weights:

                weights         adapter   gradients   optimiser         buffers
    gpu         W               4 P       4 P         8 P               -
    ddp         W               4 P       4 P         8 P               4 P
    zero1       W               4 P       4 P         12 P / N          2 buckets
    zero2       W               4 P       4 P / N     12 P / N          2 buckets
    zero3       towers + rest / N + gathered    4 P / N     4 P / N     12 P / N      2 buckets
    offload     towers + gathered               gathered    4 P / N     0 (host)      2 buckets

Optimiser: AdamW keeps two float32 numbers for each parameter; ZeRO adds its own float32 copy. ``gathered`` are the
weights that ZeRO-3 holds whole for the layers that run now: up to DeepSpeed's bound of 1e9 parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from torch import nn

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily

FLOAT32 = 4
ZERO_BUCKET = 20_000_000
"""Elements of a reduction buffer; there are two, one filling while the other is sent."""
ZERO_LIVE = 1_000_000_000
"""DeepSpeed's ``stage3_max_live_parameters``."""
CARDS = (24, 40, 80, 141)
"""GiB that cards are sold by."""
CONTEXT = 2**30
"""Taken by the CUDA context, loaded kernels and library workspaces."""
HEADROOM = 0.05
"""Share of a card that fragmentation may waste."""
NF4_BLOCK, NF4_NESTED = 64, 256


@dataclass(frozen=True)
class Plan:
    """How a trainer spreads things.

    Attributes:
        name: option of the config group ``trainer``.
        stage: of ZeRO; 0 without it.
        spread: several processes.
        offload: optimiser states (and, in stage 3, weights) live in the host's memory.
    """

    name: str
    stage: int = 0
    spread: bool = True
    offload: bool = False


PLANS = (
    Plan("gpu", spread=False),
    Plan("ddp"),
    Plan("zero1", 1),
    Plan("zero2", 2),
    Plan("zero3", 3),
    Plan("zero3_offload", 3, offload=True),
)


def plan_of(trainer: DictConfig) -> Plan:
    """The plan that a trainer's config comes to."""
    strategy: Any = trainer.get("strategy", "auto")
    if isinstance(strategy, DictConfig):
        stage, offload = int(strategy.get("stage", 0)), bool(strategy.get("offload", False))
    else:
        stage, offload = next((n for n in (1, 2, 3) if f"stage_{n}" in str(strategy)), 0), "offload" in str(strategy)
    if stage:
        return Plan(f"zero{stage}{'_offload' if offload else ''}", stage, offload=offload)
    return PLANS[0] if str(trainer.get("devices", 1)) in ("1", "[0]") else PLANS[1]


@dataclass(frozen=True)
class Weights:
    """Sizes of a model.

    Attributes:
        towers: bytes of the frozen encoders.
        rest: bytes of decoder, embeddings and head.
        rest_parameters: their number.
        frozen: parameters of the whole backbone.
        trainable: parameters of the adapter.
        largest: bytes of the largest projection of the decoder in the compute type (what NF4 unpacks at a time).
    """

    towers: int
    rest: int
    rest_parameters: int
    frozen: int
    trainable: int
    largest: int

    @classmethod
    def of(cls, model: nn.Module, family: OmniFamily, quantization: str | None) -> Weights:
        """Count a model, which may be on the meta device."""
        towers = tuple(f"{path}." for path in family.tower_paths)
        inside = {id(p): p for name, p in model.named_parameters() if not p.requires_grad and name.startswith(towers)}
        rest = {id(p): p for p in model.parameters() if not p.requires_grad and id(p) not in inside}
        packed = {id(linear.weight): linear for linear in decoder_projections(model, family)}
        size = sum(
            nf4_bytes(p.numel()) if quantization == "nf4" and key in packed else p.numel() * p.itemsize
            for key, p in rest.items()
        )
        return cls(
            towers=sum(p.numel() * p.itemsize for p in inside.values()),
            rest=size,
            rest_parameters=sum(p.numel() for p in rest.values()),
            frozen=sum(p.numel() for p in (*inside.values(), *rest.values())),
            trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            largest=max(linear.weight.numel() * linear.weight.itemsize for linear in packed.values()),
        )


def decoder_projections(model: nn.Module, family: OmniFamily) -> Iterator[nn.Linear]:
    """The frozen linear layers of the decoder: what NF4 packs (stacked experts are none, and stay as they are)."""
    prefix = f"{family.language_model_path}.layers."
    for name, module in model.named_modules():
        if name.startswith(prefix) and isinstance(module, nn.Linear) and not module.weight.requires_grad:
            yield module


def nf4_bytes(elements: int) -> int:
    """4-bit weights with their doubly quantised scales.

    Per 64 weights a scale of one byte, per 256 scales a float32; two code books (16 and 256 float32) and an offset.
    """
    blocks = math.ceil(elements / NF4_BLOCK)
    nested = math.ceil(blocks / NF4_NESTED)
    return math.ceil(elements / 2) + blocks + FLOAT32 * nested + FLOAT32 * (16 + 256 + 1)


def static_bytes(weights: Weights, plan: Plan, processes: int) -> dict[str, int]:
    """Bytes that a process holds all the time, by row of the table."""
    share = processes if plan.spread else 1
    own = FLOAT32 * weights.trainable
    part = own // share
    frozen, adapter = weights.towers + weights.rest, own
    if plan.stage == 3:
        gathered = weights.rest * min(1.0, ZERO_LIVE / max(1, weights.rest_parameters))
        frozen = weights.towers + int(gathered) + (0 if plan.offload else weights.rest // share)
        frozen = min(frozen, weights.towers + weights.rest) if share == 1 else frozen
        adapter = 0 if plan.offload else part
    optimiser = {0: 2 * own, 1: 3 * part, 2: 3 * part, 3: 3 * part}[plan.stage]
    buffers = 2 * FLOAT32 * ZERO_BUCKET if plan.stage else (own if plan.spread else 0)
    return {
        "weights": frozen,
        "adapter": adapter,
        "gradients": part if plan.stage >= 2 else own,
        "optimiser": 0 if plan.offload else optimiser,
        "buffers": buffers,
    }


def usable(card: int) -> int:
    """Bytes of a card that a run can plan with."""
    return int(card * 2**30 * (1 - HEADROOM)) - CONTEXT
