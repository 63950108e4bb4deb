"""Optimiser and schedule of the trainable parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mosear.backbones.partitioned import shape_of


@dataclass(frozen=True)
class Tuning:
    """How adapters are trained.

    Attributes:
        learning_rate: peak of the schedule.
        weight_decay: on matrices; vectors and gates are left alone.
        warmup: share of the steps that ramp up linearly.
        schedule: after the ramp, ``cosine`` to zero or ``constant``.
        betas: of AdamW.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        problems = []
        if not self.learning_rate > 0:
            problems.append(f"learning_rate={self.learning_rate} must be positive")
        if not 0 <= self.warmup < 1:
            problems.append(f"warmup={self.warmup} must be a share of the steps in [0, 1)")
        if self.schedule not in ("cosine", "constant"):
            problems.append(f"schedule={self.schedule!r} must be 'cosine' or 'constant'")
        if problems:
            raise ValueError("Tuning: " + "; ".join(problems) + ".")


def build_optimiser(parameters: Iterable[nn.Parameter], tuning: Tuning) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in two groups (with and without weight decay)."""
    trainable = [p for p in parameters if p.requires_grad]
    if not trainable:
        raise ValueError("Nothing to train: the adapter matched no module. Check adapter.target_modules.")
    groups = [
        {"params": [p for p in trainable if len(shape_of(p)) >= 2], "weight_decay": tuning.weight_decay},
        {"params": [p for p in trainable if len(shape_of(p)) < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=tuning.learning_rate, betas=(tuning.betas[0], tuning.betas[1])
    )


def build_schedule(optimiser: torch.optim.Optimizer, tuning: Tuning, total_steps: int) -> LambdaLR:
    """Per-step learning rate schedule (transformers' own)."""
    from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

    warmup = round(tuning.warmup * total_steps)
    if tuning.schedule == "constant":
        return get_constant_schedule_with_warmup(optimiser, warmup)
    return get_cosine_schedule_with_warmup(optimiser, warmup, total_steps)
