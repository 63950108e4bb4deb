"""Adapters on a backbone: fresh ones from a config, trained ones from a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig
from peft import PeftConfig, PeftModel, get_peft_model

import mosear.experts  # noqa: F401 - makes PEFT know MoSE
from mosear.experts.lean_lora import lean

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone


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
    trained_on = PeftConfig.from_pretrained(directory).base_model_name_or_path
    if trained_on != backbone.name:
        raise ValueError(
            f"The adapter in {directory} was trained on {trained_on!r}, not on {backbone.name!r}. "
            f"Choose the backbone it belongs to (backbone.name={trained_on})."
        )
    model = PeftModel.from_pretrained(backbone.model, str(directory))
    lean(model)
    return model.eval()
