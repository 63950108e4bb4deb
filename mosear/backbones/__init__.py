"""Frozen omni-modal backbones behind one small interface."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "OmniBackbone": "mosear.backbones.backbone",
    "SequenceState": "mosear.backbones.sequences",
    "load_backbone": "mosear.backbones.loading",
    "sequence_state": "mosear.backbones.sequences",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
