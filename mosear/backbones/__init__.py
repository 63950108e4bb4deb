"""Frozen omni-modal backbones behind one small interface."""

from __future__ import annotations

from typing import Any

__all__ = ["OmniBackbone", "load_backbone"]

_HOMES = {"OmniBackbone": "mosear.backbones.backbone", "load_backbone": "mosear.backbones.loading"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
