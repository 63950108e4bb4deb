"""``system=omni``: a backbone, its adapter and its clips, as a config says."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig

from mosear.methods.omni_system import OmniSystem
from mosear.methods.system import TUNED
from mosear.runtime.adapters import add_adapter, begin_from, load_adapter
from mosear.runtime.start import start_directory
from mosear.runtime.strategies import ZeroStrategy

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


def build_omni_system(cfg: DictConfig, trainer: Trainer) -> OmniSystem:
    """Load the backbone; for training with an adapter and a method, for evaluation with a trained one, if any."""
    log.info("Loading backbone %s", cfg.backbone.name)
    prepare_device(trainer, cfg)
    backbone = instantiate(cfg.backbone)
    # Partial first: Hydra would take a dataclass among the arguments for a config.
    data = instantiate(cfg.data, _partial_=True, _convert_="all")(backbone=backbone, prepare=None)
    run = {"benchmark": cfg.benchmark.name, "model": TUNED, "steering": cfg.steering.name, "seed": int(cfg.seed)}
    answering = instantiate(cfg.answering, _convert_="all")
    if "adapter_path" in cfg:  # an evaluation
        network: nn.Module = backbone.model
        if cfg.adapter_path is not None:
            network = load_adapter(backbone, cfg.adapter_path)
        return OmniSystem(backbone, network, data, answering, run=run)
    network = add_adapter(backbone, cfg)
    if (start := start_directory(cfg)) is not None:
        log.info("Beginning with the weights of %s", start)
        begin_from(network, backbone, start)
    tuning, method = (instantiate(node, _convert_="all") for node in (cfg.tuning, cfg.method))
    system = OmniSystem(backbone, network, data, answering, method=method, tuning=tuning, run=run)
    counts = system.parameter_counts()
    name = cfg.adapter.get("_target_", "adapter").rsplit(".", 1)[-1]
    log.info("%s: %s trainable, %s frozen parameters", name, *(quantity(counts[k]) for k in ("trainable", "frozen")))
    return system


def prepare_device(trainer: Trainer, cfg: DictConfig) -> None:
    """What must be settled before weights are loaded: this process's device, and whether they are partitioned."""
    strategy = trainer.strategy
    if strategy.root_device.type == "cuda":
        torch.cuda.set_device(strategy.root_device)  # where bitsandbytes puts what it loads
    if isinstance(strategy, ZeroStrategy):
        strategy.prepare_loading(cfg.backbone.dtype)


def quantity(value: float) -> str:
    """A count for people: 1.2 M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)
