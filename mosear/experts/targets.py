"""Which linear layers an adapter goes to: those of the language model's decoder, never the towers or the head."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from mosear.backbones.partitioned import shape_of
from mosear.experts.layer import MoSELinear

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily
    from mosear.experts.config import MoSEConfig

ALL_LINEAR = "all-linear"
EXPERT_NAMES = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "experts")


def resolve_targets(model: nn.Module, family: OmniFamily, config: MoSEConfig) -> list[str]:
    """Full names of the linear layers to adapt, in the model's order.

    Raises:
        ValueError: if nothing matches, or if the experts of a sparse model are asked for.
    """
    layers = f"{family.language_model_path}.layers."
    linear = [
        name
        for name, module in model.named_modules()
        if name.startswith(layers)
        and isinstance(module, nn.Linear | MoSELinear)
        and not name.endswith(".base_layer")
        and not _matches(config.exclude_modules, name)
    ]
    stacked = [
        name
        for name, parameter in model.named_parameters()
        if name.startswith(layers) and len(shape_of(parameter)) == 3 and not _matches(config.exclude_modules, name)
    ]
    _refuse_experts(config, linear, stacked)
    found = linear if config.target_modules == ALL_LINEAR else [n for n in linear if _matches(config.target_modules, n)]
    if not found:
        raise ValueError(_nothing_matches(model, config, layers))
    entries = [] if isinstance(config.target_modules, str) else config.target_modules or []
    if missed := [entry for entry in entries if not any(_matches([entry], name) for name in found)]:
        warnings.warn(f"target_modules: {', '.join(missed)} match no linear layer of the decoder.", stacklevel=2)
    return _in_layers(found, layers, config.layers_to_transform)


def layer_index(name: str, family: OmniFamily) -> int:
    """Index of the decoder layer that a module belongs to."""
    return int(name.removeprefix(f"{family.language_model_path}.layers.").partition(".")[0])


def _matches(wanted: Sequence[str] | str | None, name: str) -> bool:
    """As PEFT does: a string is a regular expression over the full name, entries of a list are endings."""
    if not wanted:
        return False
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == entry or name.endswith(f".{entry}") for entry in wanted)


def _refuse_experts(config: MoSEConfig, linear: list[str], stacked: list[str]) -> None:
    wanted = config.target_modules
    if not stacked or not wanted or wanted == ALL_LINEAR:
        return
    owners = sorted({name.rpartition(".")[0] for name in stacked})
    asked = [name for name in [*stacked, *owners] if _matches(wanted, name)]
    if not isinstance(wanted, str):  # names that sparse models had before their experts were stacked
        asked += [e for e in wanted if e in EXPERT_NAMES and not any(_matches([e], name) for name in linear)]
    if asked:
        raise ValueError(
            f"target_modules={wanted!r} asks for the experts of a sparse model ({asked[0]}). They are stacked in 3-D "
            "parameters, not linear layers, and MoSE cannot adapt them. Name the attention projections (q_proj, "
            "k_proj, v_proj, o_proj), use 'all-linear', or add exclude_modules='.*experts.*'."
        )


def _nothing_matches(model: nn.Module, config: MoSEConfig, layers: str) -> str:
    outside = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(layers) and _matches(config.target_modules, name)
    ]
    ending = ""
    if config.exclude_modules:
        ending = f" exclude_modules={config.exclude_modules!r} may have removed them."
    if outside:
        ending += f" It does match {outside[0]}, but towers and head stay frozen."
    return (
        f"target_modules={config.target_modules!r} matches no linear layer under {layers}*.{ending} Use 'all-linear', "
        "names such as q_proj, or a regular expression over full names."
    )


def _in_layers(names: list[str], layers: str, wanted: list[int] | int | None) -> list[str]:
    if wanted is None:
        return names
    indices = {wanted} if isinstance(wanted, int) else set(wanted)
    there = {int(name.removeprefix(layers).partition(".")[0]) for name in names}
    if missing := sorted(indices - there):
        raise ValueError(f"layers_to_transform: {missing} are not among the matched decoder layers {sorted(there)}.")
    return [name for name in names if int(name.removeprefix(layers).partition(".")[0]) in indices]
