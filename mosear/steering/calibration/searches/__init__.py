"""Calibration searches: one module per policy, named by the policy's key."""

from __future__ import annotations

from pkgutil import iter_modules


def searchable() -> tuple[str, ...]:
    """Keys of the policies that have a search; nothing is imported."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))
