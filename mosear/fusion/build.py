"""From a config to a task and a model: validation, planning and runs build them the same way."""

from __future__ import annotations

from collections.abc import Mapping

from hydra.utils import instantiate
from omegaconf import DictConfig

from mosear.fusion.model import FusionModel
from mosear.fusion.tasks import Task


def build_task(cfg: DictConfig) -> Task:
    """What is predicted; errors of the task's class come as they are."""
    task: Task = instantiate(cfg.task, _partial_=True, _convert_="all")(labels=list(cfg.data.prompt.labels))
    return task


def build_model(cfg: DictConfig, task: Task, dimensions: Mapping[str, int]) -> FusionModel:
    """The model for features of these widths; errors of its class come as they are."""
    over_time = {"over_time": True} if task.over_time else {}
    build = instantiate(cfg.model, _partial_=True, _convert_="all")
    model: FusionModel = build(dimensions=dict(dimensions), outputs=task.outputs, **over_time)
    return model
