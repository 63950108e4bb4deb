"""How features are published: each module here with a ``LAYOUT`` is one layout, and none is listed elsewhere."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from mosear.features.layouts.base import Layout, LayoutError

__all__ = ["LAYOUTS", "Layout", "LayoutError"]


def _found() -> dict[str, Layout]:
    modules = [import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)]
    found = [module.LAYOUT for module in modules if hasattr(module, "LAYOUT")]
    assert len({layout.name for layout in found}) == len(found)
    return {layout.name: layout for layout in sorted(found, key=lambda layout: layout.name)}


LAYOUTS = _found()
"""By the name that ``mosear features import`` takes."""
