"""The files of an adapter, checked before and after they go into a backbone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn

from mosear.evaluation.runs import is_trained_adapter

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
LARGEST_CONFIG = 1 << 20
SECONDS = 10.0
SIZES = ("r", "experts_per_group", "tokens", "audio_hidden", "video_hidden", "mixed")
"""Settings that decide how large an adapter is."""
MATCH = (
    "import json, re, sys\n"
    "patterns, names = json.load(sys.stdin)\n"
    "for pattern in map(re.compile, patterns):\n"
    "    for name in names: pattern.match(name), pattern.fullmatch(name)\n"
)


class AdapterError(ValueError):
    """An adapter that cannot be used, or not with this backbone."""


def read_config(directory: Path) -> tuple[PeftConfig, dict[str, Any]]:
    """The adapter's settings, for PEFT and as they stand in the file.

    Raises:
        AdapterError: if they are no settings of a PEFT method.
    """
    path = directory / CONFIG
    if not is_trained_adapter(directory):
        raise AdapterError(f"{directory} is not a trained adapter: it has no {CONFIG}. Give RUN/adapter.")
    if path.stat().st_size > LARGEST_CONFIG:
        raise AdapterError(f"{path} has {path.stat().st_size} bytes; settings of an adapter have at most 1 MiB.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is not JSON ({error}). Copy the adapter again.") from error
    method = found.get("peft_type") if isinstance(found, dict) else None
    if not isinstance(method, str) or method not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise AdapterError(
            f"{path} says peft_type={method!r}, which is no PEFT method. Runs write 'LORA', 'MOSE' or 'MSE'."
        )
    try:
        return PeftConfig.from_pretrained(str(directory)), found
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise AdapterError(f"{path} has settings that {method} does not take: {_first_line(error)}.") from error


def read_weights(directory: Path, model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by name, on the CPU.

    Raises:
        AdapterError: if they cannot be read, or some are not finite.
    """
    path = next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)
    if path is None:
        raise AdapterError(f"{directory} has no {WEIGHTS[0]}: the adapter's weights are missing. Copy it again.")
    try:
        mapping = getattr(model, "_checkpoint_conversion_mapping", {})
        found: dict[str, Tensor] = load_peft_weights(str(directory), device="cpu", key_mapping=mapping)
    except Exception as error:  # safetensors' and pickle's errors have no common class
        raise AdapterError(f"{path} cannot be read ({_first_line(error)}). Copy the adapter again.") from error
    if not found:
        raise AdapterError(f"{path} holds no tensor. Copy the adapter again.")
    if broken := [name for name, value in found.items() if not bool(torch.isfinite(value).all())]:
        raise AdapterError(
            f"{path}: {len(broken)} of {len(found)} tensors hold NaN or infinity (the first: {broken[0]}). Training "
            "diverged, or the file is damaged; use an earlier adapter."
        )
    return found


def check_bounds(directory: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """No setting may cost more than the adapter's own size justifies.

    Raises:
        AdapterError: for ranks beyond every tensor of the file, and for patterns that do not end.
    """
    path = directory / CONFIG
    largest = max(max(value.shape, default=0) for value in weights.values())
    sizes = {name: settings[name] for name in SIZES if name in settings}
    ranks = settings.get("rank_pattern")
    sizes |= {f"rank_pattern[{name}]": value for name, value in (ranks.items() if isinstance(ranks, dict) else ())}
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise AdapterError(f"{path}: {name}={value!r} must be a whole number.")
        if value > largest:
            raise AdapterError(
                f"{path}: {name}={value} is larger than every dimension of the weights beside it ({largest}). Settings "
                "and weights are of different adapters."
            )
    if patterns := list(_patterns(settings)):
        _match_in_time(path, patterns, [name for name, _ in model.named_modules()])


def _patterns(settings: Mapping[str, Any]) -> Iterable[str]:
    """Regular expressions of the settings, as PEFT applies them."""
    for name in ("target_modules", "exclude_modules"):
        if isinstance(settings.get(name), str):
            yield settings[name]
    layers = settings.get("layers_pattern") or []
    for pattern in [layers] if isinstance(layers, str) else layers:
        yield rf".*\.{pattern}\.(\d+)\."
    for name in ("rank_pattern", "alpha_pattern"):
        yield from (rf"(.*\.)?({key})$" for key in settings.get(name) or {})


def _match_in_time(path: Path, patterns: list[str], names: list[str]) -> None:
    """Try patterns in a process of their own: Python cannot interrupt a match, but it can end a process."""
    command = [sys.executable, "-I", "-S", "-c", MATCH]
    try:
        done = subprocess.run(
            command, input=json.dumps([patterns, names]), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AdapterError(
            f"{path}: its regular expressions ({_shown(patterns)}) do not end within {SECONDS:g} s on the backbone's "
            "module names. Write target_modules as a list of names."
        ) from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["the process was ended"])[-1]
        raise AdapterError(f"{path}: its regular expressions ({_shown(patterns)}) are not valid: {said}.")


def check_loaded(model: PeftModel, adapter: str, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Every parameter of the adapter comes from the file, and every tensor of the file went into one.

    Raises:
        AdapterError: otherwise.
    """
    expected = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    wrong = [name for name, value in weights.items() if name in expected and expected[name].shape != value.shape]
    if wrong:
        shapes = tuple(weights[wrong[0]].shape), tuple(expected[wrong[0]].shape)
        raise AdapterError(
            f"{len(wrong)} tensors of the adapter in {directory} have another shape than {CONFIG} and this backbone "
            f"ask for: {wrong[0]} is {shapes[0]}, not {shapes[1]}."
        )
    # PEFT translates names of earlier layouts, so it is asked which ones it could not place.
    result = set_peft_model_state_dict(model, dict(weights), adapter_name=adapter)
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(model.peft_config[adapter].peft_type)
    missing = [name for name in result.missing_keys if prefix and prefix in name and f".{adapter}" in name]
    told = []
    if missing:
        told.append(f"{len(missing)} parameters are not in the file (the first: {missing[0]})")
    if extra := result.unexpected_keys:
        told.append(f"{len(extra)} tensors of the file belong to no parameter (the first: {extra[0]})")
    if told:
        raise AdapterError(
            f"The weights in {directory} are not those of the adapter that {CONFIG} describes on this backbone: "
            f"{'; '.join(told)}. Copy the adapter again, with both files."
        )


def _shown(patterns: list[str]) -> str:
    text = ", ".join(patterns)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
