"""An evaluation takes from the run what the run was trained with: backbone, question, labels and budgets."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from mosear.config.foreign import OWN, without_code
from mosear.evaluation.runs import ADAPTER, CONFIG, RunFiles, is_trained
from mosear.problems import ConfigError, Problem

log = logging.getLogger(__name__)

PROMPT = "data.prompt"
TAKEN = ("backbone", PROMPT, "data.budget", "data.interleave", "data.max_pixels", "data.max_tokens", "data.answer_from")
"""What an evaluation takes from a run."""
FUSION = ("system", "features", "model", "task")
"""What it takes from the run of a fusion model beside that."""
_ABSENT = object()


def with_settings_of_run(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config of an evaluation with what it takes from its run; unchanged where no run is named or known.

    What the command line sets stays. A benchmark with a question of its own (``benchmark.own_prompt``) asks that one.

    Args:
        cfg: composed from ``eval.yaml``.
        overrides: of the command line.

    Raises:
        ConfigError: if ``run`` is no run with a trained adapter, or its config names code of its own.
    """
    cfg = cfg.copy()
    with open_dict(cfg):
        if cfg.get("run") is not None:
            if not is_trained(Path(cfg.run) / ADAPTER):
                remedy = "Give the directory of a run that train.py finished, or adapter=DIR for an adapter alone."
                raise ConfigError([Problem("run", cfg.run, "there is no adapter/ with an adapter_config.json", remedy)])
            cfg.adapter_path = str(Path(cfg.run) / ADAPTER)
        path = None if cfg.adapter_path is None else Path(cfg.adapter_path).parent / CONFIG
        if path is None or not path.is_file():
            return cfg
        saved = RunFiles(path.parent).config
        taken = (*TAKEN, *FUSION) if "model" in saved else TAKEN
        set_here = [override.partition("=")[0].lstrip("+~") for override in overrides]
        without_code(
            saved,
            path,
            keys=[key for key in (*taken, "system.augment") if key in OWN and key not in set_here],
            ours=set_here,
        )
        for key in taken:
            theirs = OmegaConf.select(saved, key, default=_ABSENT)  # null is a value: the checkpoint's own pixels
            chosen = any(name == key or key.startswith(f"{name}.") for name in set_here if name != "data")
            if theirs is _ABSENT or chosen or (key == PROMPT and cfg.benchmark.get("own_prompt")):
                continue
            ours = {name: OmegaConf.select(cfg, name) for name in set_here if name.startswith(f"{key}.")}
            OmegaConf.update(cfg, key, theirs, merge=False)
            for name, value in ours.items():
                OmegaConf.update(cfg, name, value)
        for told in differences(cfg, saved):
            log.info("Not as in the run of the adapter: %s", told)
    return cfg


def differences(cfg: DictConfig, saved: DictConfig) -> Iterator[str]:
    """``key: here (there)`` for everything that shapes an answer and is not as in the run."""
    for key in TAKEN:
        ours, theirs = (dict(_flat(OmegaConf.select(own, key), key)) for own in (cfg, saved))
        for name in [name for name in ours if name in theirs and ours[name] != theirs[name]]:
            if not name.endswith("._target_"):
                yield f"{name} is {ours[name]!r}, in the run {theirs[name]!r}"


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    if isinstance(plain, Mapping):
        for name, child in plain.items():
            yield from _flat(child, f"{key}.{name!s}")
    else:
        yield key, plain
