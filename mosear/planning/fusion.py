"""What ``debug=dry`` says about a fusion model: features, parameters, steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig

from mosear.config.targets import resolve_target
from mosear.fusion.build import build_model, build_task
from mosear.planning.plan import FLOAT32
from mosear.problems import Problem

if TYPE_CHECKING:
    from mosear.fusion.model import FusionModel
    from mosear.fusion.tasks import Task

STATES = 4
"""Weights, gradients and two moments of AdamW."""


def planned_model(cfg: DictConfig) -> tuple[FusionModel, Task]:
    """The model without memory, and its task; widths come from headers alone.

    Raises:
        ValueError: settings of the model do not go together, or not with the features.
    """
    widths = resolve_target(cfg.features._target_).planned_dimensions(cfg)
    task = build_task(cfg)
    with torch.device("meta"):
        return build_model(cfg, task, widths), task


def model_fits(cfg: DictConfig) -> Iterator[Problem]:
    """The model's settings go together, and with the features."""
    try:
        planned_model(cfg)
    except ValueError as error:
        yield Problem("model", cfg.model._target_.rsplit(".", 1)[-1], str(error), "Correct the model's settings.")


def fusion_lines(cfg: DictConfig) -> list[str]:
    """Widths of the features, and the size of the model; nothing is read but headers."""
    model, task = planned_model(cfg)
    count = sum(parameter.numel() for parameter in model.parameters())
    shown = ", ".join(f"{name} {width}" for name, width in model.dimensions.items())
    memory = f"{STATES * FLOAT32 * count / 2**20:.1f} MiB with gradients and AdamW's moments, without activations"
    return [
        f"features: {shown}",
        f"model: {type(model).__name__}, {count:,} parameters ({memory}), {task.outputs} outputs for task={task.name}",
    ]
