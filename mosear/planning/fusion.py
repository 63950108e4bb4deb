"""What ``debug=dry`` says about a fusion model: features, parameters, steps."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from mosear.config.targets import resolve_target
from mosear.planning.plan import FLOAT32

STATES = 4
"""Weights, gradients and two moments of AdamW."""


def fusion_lines(cfg: DictConfig) -> list[str]:
    """Widths of the features, and the size of the model; nothing is read but headers."""
    widths = resolve_target(cfg.features._target_).planned_dimensions(cfg)
    task = instantiate(cfg.task, _partial_=True, _convert_="all")(labels=list(cfg.data.prompt.labels))
    over_time: dict[str, Any] = {"over_time": True} if task.over_time else {}
    with torch.device("meta"):
        build = instantiate(cfg.model, _partial_=True, _convert_="all")
        model = build(dimensions=dict(widths), outputs=task.outputs, **over_time)
    count = sum(parameter.numel() for parameter in model.parameters())
    shown = ", ".join(f"{name} {width}" for name, width in widths.items())
    memory = f"{STATES * FLOAT32 * count / 2**20:.1f} MiB with gradients and AdamW's moments, without activations"
    return [
        f"features: {shown}",
        f"model: {type(model).__name__}, {count:,} parameters ({memory}), {task.outputs} outputs for task={task.name}",
    ]
