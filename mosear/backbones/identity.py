"""Which backbone an adapter was trained on: its sizes and a few of its weights, which hold wherever a copy of it lies.

A name does not tell: the same checkpoint has a hub id and local directories, and two checkpoints may share a name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.loading import load_backbone
from mosear.backbones.partitioned import shape_of, whole

FILE = "mosear.json"
"""Beside an adapter's weights."""
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
PER_TENSOR = 32
RELATIVE, ABSOLUTE = 1e-2, 1e-5
"""A weight's rounding to bf16 changes it by up to 0.4 %."""


def identity(backbone: OmniBackbone) -> dict[str, Any]:
    """Sizes and sampled weights of a backbone, with or without an adapter. All processes call it under ZeRO-3."""
    config: Any = backbone.language_model.config
    sizes = {name: getattr(config, name) for name in SIZES if getattr(config, name, None) is not None}
    model_type = getattr(backbone.model.config, "model_type", None)
    return {"config": {"model_type": model_type, **sizes}, "weights": _sampled(backbone)}


def _sampled(backbone: OmniBackbone) -> dict[str, list[float]]:
    """Evenly spread entries of some tensors. Quantised ones are left out: their entries are no weights."""
    layers: Any = backbone.language_model.get_submodule("layers")
    modules: dict[str, nn.Module] = {
        "embeddings": backbone.model.get_input_embeddings(),
        "norm": backbone.language_model.get_submodule("norm"),
    }
    for index in sorted({0, len(layers) // 2, len(layers) - 1}):
        modules[f"layers.{index}.input_layernorm"] = layers[index].input_layernorm
        modules[f"layers.{index}.q_proj"] = layers[index].self_attn.q_proj
    found = {}
    for name, module in modules.items():
        weight: Any = getattr(module, "base_layer", module).weight  # an adapter may be around it
        if not weight.is_floating_point():
            continue
        count = math.prod(shape_of(weight))
        places = torch.arange(PER_TENSOR) * count // PER_TENSOR
        with whole([weight]):
            values = weight.detach().reshape(-1)[places.to(weight.device)]
        found[name] = [float(f"{value:.6g}") for value in values.float().tolist()]
    return found


def differences(trained: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What tells two backbones apart, in words; nothing if they are one, in whatever precision each is loaded."""
    sizes = (trained["config"], found["config"])
    told = [
        f"{name} is {sizes[1].get(name)}, not {value}"
        for name, value in sizes[0].items()
        if sizes[1].get(name) != value
    ]
    if told:
        return told
    for name, values in trained["weights"].items():
        others = found["weights"].get(name)
        if others is not None and not _close(values, others):
            return [f"its weights differ ({name})"]
    return []


def _close(values: list[float], others: list[float]) -> bool:
    return len(values) == len(others) and all(
        math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE) for a, b in zip(values, others, strict=True)
    )


def save_identity(directory: Path, name: str, found: Mapping[str, Any]) -> None:
    """Write the file beside an adapter.

    Args:
        directory: of the adapter.
        name: of the backbone, for messages.
        found: by :func:`identity`.
    """
    content = {"backbone": {"name": name, **found}}
    (directory / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def describe(directory: str | Path, source: str, *, name: str | None = None) -> None:
    """Write the file beside an adapter of an earlier version, which has none.

    Args:
        directory: of the adapter.
        source: the backbone that it was trained on: embedded name, checkpoint directory or hub id.
        name: what the adapter calls it; ``None`` = the source.

    Raises:
        ValueError: if there is no adapter, or no such backbone.
    """
    if not (Path(directory) / "adapter_config.json").is_file():
        raise ValueError(f"{directory} is not a trained adapter: it has no adapter_config.json. Give RUN/adapter.")
    save_identity(Path(directory), name or source, identity(load_backbone(source)))


def saved_identity(directory: Path) -> dict[str, Any] | None:
    """What the file beside an adapter says; ``None`` if an earlier version saved the adapter, without one.

    Raises:
        ValueError: if it is damaged.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["backbone"]
        if isinstance(found["config"], dict) and all(
            isinstance(value, int | float) for values in dict(found["weights"]).values() for value in list(values)
        ):
            return dict(found)
    except (ValueError, LookupError, TypeError):
        pass
    raise ValueError(
        f"{path} is damaged: it should say which backbone the adapter was trained on. Copy the adapter again; or "
        "delete the file, and the backbone's name decides."
    )
