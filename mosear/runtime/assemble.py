"""From a validated config to live objects."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel, get_peft_model

from mosear.backbones.partitioned import shape_of
from mosear.callbacks import SteeringCallback
from mosear.experts.lean_lora import lean
from mosear.runtime.distributed import in_turn, launched_rank
from mosear.runtime.loggers import build_loggers
from mosear.runtime.steering import steering_policy
from mosear.runtime.strategies import ZeroStrategy
from mosear.training.module import EmotionTuner

if TYPE_CHECKING:
    from torch import nn

    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.datamodule import ClipDataModule
    from mosear.evaluation.contribution import ClipValues

log = logging.getLogger(__name__)


@dataclass
class Assembly:
    """What a run works with.

    Attributes:
        cfg: the resolved config.
        run_dir: where everything goes.
        backbone: with an adapter injected, once there is one.
        data: the clips.
        trainer: Lightning's.
        callbacks: the trainer's.
        contributions: by system, what a test measured of its modalities; empty unless the config asks for it.
        steering: by system, what steering did in its test; empty without steering.
    """

    cfg: DictConfig
    run_dir: Path
    backbone: OmniBackbone
    data: ClipDataModule
    trainer: Trainer
    callbacks: list[Callback]
    contributions: dict[str, list[ClipValues]] = field(default_factory=dict)
    steering: dict[str, dict[str, Any]] = field(default_factory=dict)


def assemble(cfg: DictConfig) -> Assembly:
    """Seed, save the resolved config, prepare the data, load the backbone, build the trainer."""
    quiet_libraries()
    seed_everything(cfg.seed, workers=True, verbose=False)
    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    if launched_rank() == 0:
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    if cfg.data.prepare is not None:
        with in_turn("prepare"):
            instantiate(cfg.data.prepare)()
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values() if node is not None]
    if (policy := steering_policy(cfg)) is not None:
        log.info("Steering evaluation with %r", policy)
        callbacks.append(SteeringCallback(policy))
    loggers = build_loggers(cfg)
    trainer = instantiate(cfg.trainer, _partial_=True, _convert_="all")(logger=loggers, callbacks=callbacks)
    log.info("Loading backbone %s", cfg.backbone.name)
    prepare_device(trainer, cfg)
    backbone = instantiate(cfg.backbone)
    # Partial first: Hydra would take a dataclass among the arguments for a config.
    data = instantiate(cfg.data, _partial_=True, _convert_="all")(backbone=backbone, prepare=None)
    return Assembly(cfg, run_dir, backbone, data, trainer, callbacks)


def prepare_device(trainer: Trainer, cfg: DictConfig) -> None:
    """What must be settled before weights are loaded: this process's device, and whether they are partitioned."""
    strategy = trainer.strategy
    if strategy.root_device.type == "cuda":
        torch.cuda.set_device(strategy.root_device)  # where bitsandbytes puts what it loads
    if isinstance(strategy, ZeroStrategy):
        strategy.prepare_loading(cfg.backbone.dtype)


def add_adapter(backbone: OmniBackbone, cfg: DictConfig) -> PeftModel:
    """Inject a fresh adapter into the backbone."""
    config = instantiate(cfg.adapter, _convert_="all")
    model = get_peft_model(backbone.model, config)
    lean(model)
    config.base_model_name_or_path = backbone.name  # PEFT puts the local path there, which means nothing elsewhere
    return model


def load_adapter(backbone: OmniBackbone, directory: str | Path) -> PeftModel:
    """Inject a trained adapter.

    Raises:
        ValueError: if it was trained on another backbone.
    """
    from peft import PeftConfig

    trained_on = PeftConfig.from_pretrained(directory).base_model_name_or_path
    if trained_on != backbone.name:
        raise ValueError(
            f"The adapter in {directory} was trained on {trained_on!r}, not on {backbone.name!r}. "
            f"Choose the backbone it belongs to (backbone.name={trained_on})."
        )
    model = PeftModel.from_pretrained(backbone.model, str(directory))
    lean(model)
    return model.eval()


def build_tuner(parts: Assembly, network: nn.Module, model: str) -> EmotionTuner:
    """The LightningModule around ``network``; ``model`` (``zero_shot`` or ``tuned``) goes into its predictions."""
    cfg = parts.cfg
    run = {"benchmark": cfg.benchmark.name, "model": model, "steering": cfg.steering.name, "seed": int(cfg.seed)}
    return EmotionTuner(
        parts.backbone,
        network,
        parts.data.prompt,
        instantiate(cfg.tuning, _convert_="all"),
        instantiate(cfg.answering, _convert_="all"),
        cache=parts.data.cache,
        run=run,
        mixing=instantiate(cfg.mixing, _convert_="all"),
        builder=parts.data.builder,
    )


def parameter_counts(network: nn.Module, backbone: OmniBackbone) -> dict[str, int]:
    """Trainable and frozen parameters, those of other processes too."""
    towers = [backbone.model.get_submodule(path) for path in backbone.family.tower_paths]
    found = {id(p): p for module in (network, *towers) for p in module.parameters()}  # ZeRO-3 keeps towers apart
    trainable = sum(math.prod(shape_of(p)) for p in found.values() if p.requires_grad)
    return {"trainable": trainable, "frozen": sum(math.prod(shape_of(p)) for p in found.values()) - trainable}


def versions() -> dict[str, str]:
    """Library versions worth recording."""
    from importlib.metadata import version

    from mosear import __version__

    names = ("torch", "transformers", "peft", "lightning", "av", "datasets")
    return {"mosear": __version__, **{name: version(name) for name in names}}


def quantity(value: Any) -> str:
    """A count for people: 1.2 M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def quiet_libraries() -> None:
    """Hide messages that ask nothing of the user; everything else stays."""
    import os

    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.disable_progress_bar()
    if launched_rank() > 0:  # other processes write to their own logs; on the terminal they only warn
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    # Few loader processes are a choice, short epochs still log their end, a frozen backbone is in eval mode on purpose,
    # and two libraries call what they themselves, or their dependencies, have deprecated.
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*in eval mode at the start of training.*",
        ".*is_gradient_checkpointing. is deprecated.*",
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message)
