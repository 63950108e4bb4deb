"""Adapters on a backbone: fresh ones from a config, trained ones from a directory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from peft import PeftModel, get_peft_model

import mosear.experts  # noqa: F401 - makes PEFT know MoSE
from mosear.backbones.identity import FILE, differences, identity, saved_identity
from mosear.experts.lean_lora import lean
from mosear.runtime.adapter_files import AdapterError, check_bounds, check_loaded, read_config, read_weights

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone

NAME = "default"
NOT_COMPARED = (
    "{path} has no {file} (an earlier version of mosear saved the adapter). Its backbone, {name!r}, goes by the name "
    "alone: sizes and weights were not compared, so a directory with another checkpoint would pass as well. To have "
    'them compared from now on, write the file with the backbone that the adapter was trained on: python -c "from '
    "mosear.backbones.identity import describe; describe({path!r}, 'NAME_OR_DIRECTORY', name={name!r})\""
)
REPORTED = (".*Found missing adapter keys.*", ".*were not initialized from the model checkpoint.*")
"""Warnings of PEFT about what is an error here."""


def add_adapter(backbone: OmniBackbone, cfg: DictConfig) -> PeftModel:
    """Inject a fresh adapter into the backbone."""
    config = instantiate(cfg.adapter, _convert_="all")
    model = get_peft_model(backbone.model, config)
    lean(model)
    config.base_model_name_or_path = backbone.name  # PEFT puts the local path there, which means nothing elsewhere
    return model


def begin_from(network: PeftModel, backbone: OmniBackbone, directory: Path) -> None:
    """Give a fresh adapter the weights of a trained one with the same settings.

    Raises:
        AdapterError: if that was trained on another backbone, or its files are damaged or do not fit.
    """
    _check_backbone(backbone, directory, read_config(directory)[0].base_model_name_or_path)
    check_loaded(network, NAME, read_weights(directory, backbone.model), directory)


def load_adapter(backbone: OmniBackbone, directory: str | Path) -> PeftModel:
    """Inject a trained adapter.

    Raises:
        AdapterError: if it was trained on another backbone, or its files are damaged or do not belong together.
    """
    directory = Path(directory)
    config, settings = read_config(directory)
    _check_backbone(backbone, directory, config.base_model_name_or_path)
    weights = read_weights(directory, backbone.model)
    check_bounds(directory, settings, weights, backbone.model)
    with warnings.catch_warnings():
        for message in REPORTED:
            warnings.filterwarnings("ignore", message)
        try:
            model = PeftModel.from_pretrained(backbone.model, str(directory), NAME, ignore_mismatched_sizes=True)
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
            raise AdapterError(f"The adapter in {directory} does not fit the backbone: {error}") from error
    check_loaded(model, NAME, weights, directory)
    lean(model)
    return model.eval()


def _check_backbone(backbone: OmniBackbone, directory: Path, name: Any) -> None:
    """By sizes and weights if the adapter says what they were, else by name."""
    try:
        trained_on = saved_identity(directory)
    except ValueError as error:
        raise AdapterError(str(error)) from error
    if trained_on is None:
        told = [] if name == backbone.name else [""]
        if not told:
            warnings.warn(NOT_COMPARED.format(path=str(directory), file=FILE, name=name), stacklevel=3)
    else:
        name, told = trained_on.get("name", name), differences(trained_on, identity(backbone))
    if told:
        ending = f" ({'; '.join(told)})" if told[0] else ""
        raise AdapterError(
            f"The adapter in {directory} was trained on {name!r}, not on {backbone.name!r}{ending}. "
            f"Choose the backbone it belongs to (backbone.name={name})."
        )
