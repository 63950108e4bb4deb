"""What train.py and eval.py check before they build anything: every mistake at once."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from mosear.config.rules import EVAL_KEYS, EVAL_RULES, SUPPLIED, TRAIN_KEYS, TRAIN_RULES
from mosear.config.validation import validate
from mosear.problems import Problem
from mosear.runtime.start import start_fits


def check_training(cfg: DictConfig) -> None:
    """Raises :class:`mosear.problems.ConfigError` if ``cfg`` cannot be trained."""
    validate(cfg, rules=(*TRAIN_RULES, start_fits, resume_fits), allowed_keys=TRAIN_KEYS, supplied=SUPPLIED)


def check_evaluation(cfg: DictConfig) -> None:
    """Raises :class:`mosear.problems.ConfigError` if ``cfg`` cannot be evaluated."""
    validate(cfg, rules=EVAL_RULES, allowed_keys=EVAL_KEYS, supplied=SUPPLIED)


def resume_fits(cfg: DictConfig) -> Iterator[Problem]:
    """The checkpoint to resume from, and settings that allow it; a run that starts afresh finds none of another's."""
    from mosear.runtime.resume import directory_is_fresh, resume_is_possible

    yield from directory_is_fresh(cfg) if cfg.resume is None else resume_is_possible(cfg)
