"""``init_from=RUN``: training begins with the weights of a trained adapter instead of fresh ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mosear.evaluation.runs import ADAPTER, is_trained_adapter
from mosear.problems import Problem

KEY = "init_from"
ABOUT_FILES = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config",
    "task_type", "init_lora_weights",
)  # fmt: skip
"""What PEFT notes beside the settings, and how weights were drawn that are replaced here."""
TRAINING_ALONE = (
    "dropout", "lora_dropout", "modality_dropout", "balance_weight", "kl_weight", "kl_scope", "load_balance_weight",
)  # fmt: skip
"""Settings that no trained weight depends on: each run has its own."""


def start_directory(cfg: DictConfig) -> Path | None:
    """The adapter that training begins with, if it does."""
    if cfg.get(KEY) is None:
        return None
    path = Path(cfg[KEY])
    return path / ADAPTER if is_trained_adapter(path / ADAPTER) else path


def start_fits(cfg: DictConfig) -> Iterator[Problem]:
    """The adapter is there, has the settings of this run's adapter, and belongs to a backbone of these sizes."""
    directory = start_directory(cfg)
    if directory is None:
        return
    if not is_trained_adapter(directory):
        yield Problem(
            KEY, cfg[KEY], "not a trained adapter: there is no adapter_config.json",
            f"Give a run that train.py finished, or its adapter/, e.g. {KEY}=outputs/lora/<timestamp>.",
        )  # fmt: skip
        return
    yield from _other_settings(cfg, directory)
    yield from _other_backbone(cfg, directory)


def _other_settings(cfg: DictConfig, directory: Path) -> Iterator[Problem]:
    from hydra.utils import instantiate

    from mosear.runtime.adapter_files import AdapterError, read_config

    try:
        theirs = _comparable(read_config(directory)[0].to_dict())
    except AdapterError as error:
        yield Problem(KEY, cfg[KEY], str(error), "Give another run.")
        return
    ours = _comparable(instantiate(cfg.adapter, _convert_="all").to_dict())
    told = [
        f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name) and not _spelled_out(ours.get(name), theirs.get(name))
    ]
    if told:
        yield Problem(
            KEY, cfg[KEY], f"its adapter has other settings: {'; '.join(told)}",
            "Give adapter and adapter.* the values of that run.",
        )  # fmt: skip


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may differ, as plain values."""
    kept = {name: value for name, value in settings.items() if name not in (*ABOUT_FILES, *TRAINING_ALONE)}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=lambda value: sorted(map(str, value))))
    return {name: sorted(value) if _is_names(value) else value for name, value in plain.items()}


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _spelled_out(ours: Any, theirs: Any) -> bool:
    """PEFT may save the modules that a pattern has found; that they are the same is seen when the weights go in."""
    return isinstance(ours, str) and _is_names(theirs) and bool(theirs)


def _other_backbone(cfg: DictConfig, directory: Path) -> Iterator[Problem]:
    """By sizes, as far as they are known without loading; weights are compared once they are there."""
    from mosear.backbones.identity import saved_identity
    from mosear.steering.configured import decoder_size

    try:
        trained = saved_identity(directory)
    except ValueError as error:
        yield Problem(KEY, cfg[KEY], str(error), "Give another run.")
        return
    size = decoder_size(str(cfg.backbone.name))
    if trained is None or size is None:
        return
    theirs = tuple(trained["config"].get(name) for name in ("num_hidden_layers", "num_attention_heads"))
    if theirs != size or not _may_be_one(str(cfg.backbone.name), str(trained.get("name"))):
        yield Problem(
            KEY, cfg[KEY],
            f"its adapter was trained on {trained.get('name')!r} ({theirs[0]} layers, {theirs[1]} heads), not on "
            f"{cfg.backbone.name!r} ({size[0]} layers, {size[1]} heads)",
            f"Choose the backbone it belongs to (backbone.name={trained.get('name')}).",
        )  # fmt: skip


def _may_be_one(ours: str, theirs: str) -> bool:
    """Embedded backbones are known by their names; a checkpoint may lie under several."""
    from mosear.backbones.tiny import EMBEDDED

    return ours == theirs or not (ours in EMBEDDED and theirs in EMBEDDED)
