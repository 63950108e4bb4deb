"""``system=fusion``: features, a model and a task, as a config says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from mosear.config.benchmark_rules import task_is_sound
from mosear.config.system_rules import checked_by
from mosear.config.targets import resolve_target
from mosear.evaluation.runs import FUSION
from mosear.fusion.build import build_model, build_task
from mosear.fusion.datamodule import FusionDataModule
from mosear.fusion.system import FusionSystem
from mosear.methods.system import TUNED
from mosear.planning.fusion import model_fits
from mosear.problems import Problem
from mosear.runtime.omni import quantity
from mosear.steering.configured import NONE

log = logging.getLogger(__name__)


def fusion_fits(cfg: DictConfig) -> Iterator[Problem]:
    """A fusion model has weights of its own: nothing of an adapter's training means anything to it."""
    for key, plain in (("adapter", None), ("method", None), ("cold_start", None), ("init_from", None)):
        if cfg.get(key) != plain:
            given = cfg[key].get("_target_", "set") if isinstance(cfg[key], DictConfig) else cfg[key]
            yield Problem(key, given, "a fusion model has no adapter and no method", f"Set {key}=null.")
    if cfg.get("zero_shot"):
        yield Problem("zero_shot", True, "there is no fusion model before training", "Set zero_shot=false.")
    if cfg.steering.name != NONE:
        yield Problem(
            "steering", cfg.steering.name, "steering moves attention of an omni-modal model", "Use steering=none."
        )
    if "adapter_path" in cfg and not (Path(cfg.adapter_path or "none") / FUSION).is_file():
        yield Problem(
            "run", cfg.adapter_path, f"no trained fusion model: there is no {FUSION}", "Give run=RUN, a run of one."
        )
    problems = getattr(resolve_target(cfg.features._target_), "problems", None)
    if problems is not None:
        yield from problems(cfg)
    task, model = resolve_target(cfg.task._target_), resolve_target(cfg.model._target_)
    if task.name not in model.tasks:
        yield Problem(
            "task", task.name, f"{model.__name__} learns {', '.join(sorted(model.tasks))}",
            "Choose another task=, or another model=.",
        )  # fmt: skip
        return
    if next(task_is_sound(cfg), None) is None:
        yield from model_fits(cfg)


@checked_by(fusion_fits)
def build_fusion_system(
    cfg: DictConfig,
    trainer: Trainer,
    *,
    batch_size: int | None = None,
    eval_batch_size: int | None = None,
    augment: Any = None,
    test_noise: list[float] | None = None,
) -> FusionSystem:
    """Read the features, build the model; for evaluation take the weights of a run.

    Args:
        cfg: of the run.
        trainer: Lightning's.
        batch_size: training clips per step and process; ``None`` = ``data.batch_size``.
        eval_batch_size: the same in evaluation; ``None`` = ``data.eval_batch_size``.
        augment: what is done to training features.
        test_noise: see :class:`~mosear.fusion.system.FusionSystem`.
    """
    task = build_task(cfg)
    source = instantiate(cfg.features, _partial_=True, _convert_="all")(cfg=cfg, accept=task.problem)
    model = build_model(cfg, task, source.dimensions)
    data = FusionDataModule(
        source,
        task,
        batch_size=batch_size or cfg.data.batch_size,
        eval_batch_size=eval_batch_size or cfg.data.eval_batch_size,
        bucket=cfg.data.get("bucket", 1),
        seed=int(cfg.seed),
    )
    run = {"benchmark": cfg.benchmark.name, "model": TUNED, "steering": cfg.steering.name, "seed": int(cfg.seed)}
    system = FusionSystem(
        model,
        task,
        data,
        instantiate(cfg.answering, _convert_="all"),
        tuning=None if "adapter_path" in cfg else instantiate(cfg.tuning, _convert_="all"),
        augment=augment,
        test_noise=test_noise or (),
        description={name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "task")},
        run=run,
    )
    if "adapter_path" in cfg:
        system.restore(Path(cfg.adapter_path))
    log.info("%s: %s trainable parameters", system.title, quantity(system.parameter_counts()["trainable"]))
    return system
