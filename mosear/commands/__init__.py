"""The commands of ``mosear NAME``: each module here is one, and none is listed elsewhere.

The module's name is the command's, with ``-`` for ``_``. The first line of its docstring stands in ``mosear --help``.
Its ``main(arguments)`` takes the arguments after the name, and returns the exit status or nothing. To list commands
their modules are read, not imported.
"""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any


def command_names() -> list[str]:
    """All commands, by alphabet."""
    return sorted(module.name.replace("_", "-") for module in iter_modules(__path__) if module.name[0] != "_")


def summary(name: str) -> str:
    """The first line of a command's docstring, without its full stop."""
    spec = find_spec(_module(name))
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")


def run_command(name: str, arguments: list[str]) -> int:
    """Run one; returns the exit status."""
    module: Any = import_module(_module(name))
    status = module.main(arguments)
    return status if isinstance(status, int) else 0


def _module(name: str) -> str:
    return f"{__name__}.{name.replace('-', '_')}"
