"""From a validated config to live objects."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from mosear.callbacks import SteeringCallback
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report import Table
from mosear.loggers.build import build_loggers
from mosear.methods.system import System
from mosear.runtime.quiet import quiet_libraries
from mosear.steering.configured import steering_policy
from mosear.torchrun import in_turn, launched_rank

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tested:
    """What a test of one system gave.

    Attributes:
        rows: its predictions.
        summary: what was measured beside them.
        tables: for loggers.
    """

    rows: Sequence[PredictionRow]
    summary: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()


@dataclass
class Assembly:
    """What a run works with.

    Attributes:
        cfg: the resolved config.
        run_dir: where everything goes.
        trainer: Lightning's.
        callbacks: the trainer's.
        system: what is trained and tested.
        tested: by name of the system; the last one is what the run is about.
    """

    cfg: DictConfig
    run_dir: Path
    trainer: Trainer
    callbacks: list[Callback]
    system: System
    tested: dict[str, Tested] = field(default_factory=dict)


def assemble(cfg: DictConfig) -> Assembly:
    """Seed, save the resolved config, prepare the data, build the trainer, then the system."""
    quiet_libraries()
    seed_everything(cfg.seed, workers=True, verbose=False)
    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    if launched_rank() == 0:
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    if cfg.data.get("prepare") is not None:
        with in_turn("prepare"):
            instantiate(cfg.data.prepare)()
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values() if node is not None]
    if (policy := steering_policy(cfg)) is not None:
        log.info("Steering evaluation with %r", policy)
        callbacks.append(SteeringCallback(policy))
    loggers = build_loggers(cfg)
    # Without validation clips, Lightning is not to ask for a loader.
    unvalidated = {"limit_val_batches": 0} if cfg.data.get("val", "") is None else {}
    build_trainer = instantiate(cfg.trainer, _partial_=True, _convert_="all")
    trainer = build_trainer(logger=loggers, callbacks=callbacks, **unvalidated)
    system = instantiate(cfg.system, _partial_=True)(cfg=cfg, trainer=trainer)
    return Assembly(cfg, run_dir, trainer, callbacks, system)


def versions() -> dict[str, str]:
    """Library versions worth recording."""
    from importlib.metadata import version

    from mosear import __version__

    names = ("torch", "transformers", "peft", "lightning", "av", "datasets")
    return {"mosear": __version__, **{name: version(name) for name in names}}
