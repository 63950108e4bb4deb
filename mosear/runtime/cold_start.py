"""``cold_start``: a training that the same command does first; the run then begins with its adapter.

    cold_start:
      method: {_target_: mosear.methods.answer_tuning.AnswerTuning}
      trainer: {max_epochs: 1}

Sections with a ``_target_`` replace those of the run, others are merged into them. The first training is a run of its
own, in ``cold_start/`` of the run directory, with its own checkpoints, test and report.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from mosear.evaluation.runs import CONFIG, METRICS
from mosear.problems import ConfigError, Problem
from mosear.runtime.checks import check_training
from mosear.runtime.resume import AUTO, other_settings, settings_of

log = logging.getLogger(__name__)

KEY = "cold_start"
FIXED = ("name", "seed", "data_dir", "run_dir", "resume", "dry_run", "init_from", KEY)
"""What a cold start takes from its run."""


def first_training(cfg: DictConfig) -> DictConfig | None:
    """The config of the training that comes first, if there is one."""
    if cfg.get(KEY) is None:
        return None
    first = copy.deepcopy(cfg)
    with open_dict(first):
        for name, changed in first.pop(KEY).items():
            if OmegaConf.is_dict(changed) and "_target_" not in changed and OmegaConf.is_dict(first.get(name)):
                first[name].merge_with(changed)
            else:
                first[name] = changed
        first[KEY] = None
        first.name = f"{cfg.name}_{KEY}"
        first.run_dir = str(Path(cfg.run_dir) / KEY)
        first.resume = None if cfg.resume is None else AUTO
        first.zero_shot = False
    return first


def is_finished(first: DictConfig) -> bool:
    """Whether the first training has left its results."""
    return (Path(first.run_dir) / METRICS).is_file()


def check_trainings(cfg: DictConfig) -> None:
    """:func:`check_training` of the run and of its cold start.

    Raises:
        ConfigError: with the mistakes of both.
    """
    found = _problems(cfg)
    if cfg.get(KEY) is not None:
        if OmegaConf.is_dict(cfg[KEY]):
            found += _of_cold_start(cfg, found)
        else:
            found.append(Problem(KEY, cfg[KEY], "must be sections of a config", f"Use {KEY}=null, or {KEY}.KEY=VALUE."))
    if found:
        raise ConfigError(found)


def _problems(cfg: DictConfig) -> list[Problem]:
    try:
        check_training(cfg)
    except ConfigError as error:
        return list(error.problems)
    return []


def _of_cold_start(cfg: DictConfig, known: list[Problem]) -> Iterator[Problem]:
    for name in FIXED:
        if name in cfg[KEY]:
            yield Problem(f"{KEY}.{name}", cfg[KEY][name], "a cold start has that of its run", f"Set {name} itself.")
    first = first_training(cfg)
    assert first is not None
    for problem in _problems(first):
        if problem not in known:
            yield dataclasses.replace(problem, key=f"{KEY}.{problem.key}")
    if cfg.resume is not None and is_finished(first):
        saved: Any = OmegaConf.load(Path(first.run_dir) / CONFIG)
        yield from other_settings(KEY, first.run_dir, first.run_dir, settings_of(saved), first)


def train_in_order(cfg: DictConfig) -> dict[str, Any]:
    """The cold start, if the config has one that has not been done, then the run. Returns the run's metrics."""
    from mosear.runtime.flows import train

    if (first := first_training(cfg)) is not None:
        if not is_finished(first):
            log.info("Cold start, in %s", first.run_dir)
            train(first)
            log.info("Cold start done; %s begins with its adapter", cfg.name)
        with open_dict(cfg):
            cfg.init_from = first.run_dir
    return train(cfg)
