"""Optimiser and schedule of the trainable parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from mosear.backbones.partitioned import shape_of
from mosear.settings import NotNegative, settings


@settings
@dataclass(frozen=True)
class Tuning:
    """How adapters are trained.

    Attributes:
        learning_rate: peak of the schedule.
        weight_decay: on matrices; vectors and gates are left alone.
        warmup: share of the steps that ramp up linearly.
        schedule: after the ramp, ``cosine`` or ``linear`` to zero, or ``constant``.
        optimizer: builds an optimiser from groups of parameters and ``lr``; ``None`` = torch's AdamW.
    """

    learning_rate: Annotated[float, Interval(gt=0, le=1e30), "more overflows the step of AdamW"] = 1e-4
    weight_decay: NotNegative = 0.0
    warmup: Annotated[float, Interval(ge=0, lt=1), "a share of the steps"] = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    optimizer: Callable[..., torch.optim.Optimizer] | None = None


def build_optimiser(parameters: Iterable[nn.Parameter], tuning: Tuning) -> torch.optim.Optimizer:
    """The optimiser over the trainable parameters, in two groups (with and without weight decay)."""
    trainable = [p for p in parameters if p.requires_grad]
    if not trainable:
        raise ValueError("Nothing to train: the adapter matched no module. Check adapter.target_modules.")
    groups = [
        {"params": [p for p in trainable if len(shape_of(p)) >= 2], "weight_decay": tuning.weight_decay},
        {"params": [p for p in trainable if len(shape_of(p)) < 2], "weight_decay": 0.0},
    ]
    build: Any = tuning.optimizer or torch.optim.AdamW
    optimiser: torch.optim.Optimizer = build([g for g in groups if g["params"]], lr=tuning.learning_rate)
    return optimiser


def build_schedule(optimiser: torch.optim.Optimizer, tuning: Tuning, total_steps: int) -> LRScheduler:
    """Per-step learning rate schedule (transformers' own)."""
    from transformers import get_scheduler

    name = "constant_with_warmup" if tuning.schedule == "constant" else tuning.schedule
    schedule: LRScheduler = get_scheduler(
        name, optimiser, num_warmup_steps=round(tuning.warmup * total_steps), num_training_steps=total_steps
    )
    return schedule
