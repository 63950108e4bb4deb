"""Makes PEFT know MoSE as soon as PEFT is there, without importing either.

``import mosear`` is enough to load a MoSE adapter, whether PEFT is imported before or after it, and costs no torch.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

EXPERTS = "mosear.experts"


class PeftFinder(MetaPathFinder):
    """Asked first: lets the import of PEFT end with our registration. To find PEFT is not to import it, so it stays."""

    asking = False

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that registers MoSE afterwards."""
        if fullname != "peft" or self.asking:
            return None
        self.asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.asking = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    """Import the experts, which register themselves; whoever is importing them already does it on their own."""
    if EXPERTS in sys.modules:
        return
    try:
        importlib.import_module(EXPERTS)
    except RuntimeError as error:  # a PEFT that keeps its methods elsewhere: it must stay usable without us
        warnings.warn(f"PEFT does not know MoSE: {error}", stacklevel=2)
    except ImportError:  # PEFT is imported by a module that the experts need; they register when they are imported
        pass


def register_with_peft() -> None:
    """Register now if PEFT is loaded, else when it will be; doing it again is harmless."""
    if "peft" in sys.modules:
        _register()
    elif not any(isinstance(finder, PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, PeftFinder())
