"""Policies that configs and settings files may name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from mosear.steering import policies
from mosear.steering.policies.base import KEYED, Policy


def known_policies() -> dict[str, type[Policy]]:
    """By key: every policy of ``mosear/steering/policies``, and those of other packages that were imported.

    A config imports the class of its ``_target_``. A settings file imports nothing: its keys are looked up here.
    """
    for module in iter_modules(policies.__path__):
        import_module(f"{policies.__name__}.{module.name}")
    return dict(sorted(KEYED.items()))
