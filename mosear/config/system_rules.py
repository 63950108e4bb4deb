"""What a system says about the rest of the config, found before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from omegaconf import DictConfig

from mosear.problems import Problem

Builder = TypeVar("Builder", bound=Callable[..., object])

RULES = "rules"


def checked_by(rules: Callable[[DictConfig], Iterable[Problem]]) -> Callable[[Builder], Builder]:
    """Decorates a builder of systems (``system._target_``) with the combinations that cannot work."""

    def decorated(builder: Builder) -> Builder:
        setattr(builder, RULES, rules)
        return builder

    return decorated


def system_fits(cfg: DictConfig) -> Iterator[Problem]:
    """What the system's builder says, if it says anything."""
    from mosear.config.targets import resolve_target

    rules = getattr(resolve_target(cfg.system._target_), RULES, None)
    if rules is not None:
        yield from rules(cfg)
