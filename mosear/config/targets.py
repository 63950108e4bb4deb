"""From a ``_target_`` path to the object it names, without calling it."""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from mosear.moved import new_name
from mosear.problems import suggest


class TargetError(ValueError):
    """A ``_target_`` that cannot be resolved.

    Attributes:
        message: Which part of the path fails, and why.
        remedy: What to do about it.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


def is_target_node(value: object) -> bool:
    """Tells whether ``value`` is a config node that Hydra would instantiate."""
    return isinstance(value, Mapping) and "_target_" in value


def resolve_target(path: object) -> Any:
    """Imports the callable that ``path`` names, as Hydra would.

    Args:
        path: Dotted path: ``package.module.Class`` or ``package.module.Class.method``.

    Raises:
        TargetError: If ``path`` is not a dotted string, a part of it does not exist, its module does not import, or
            the object cannot be called.
    """
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
        raise TargetError("_target_ must be a dotted path.", "Write it as 'package.module.Class'.")
    if (new := new_name(path)) is not None:
        raise TargetError(f"'{path}' has moved.", f"Write '{new}'.")
    name, *attributes = path.split(".")
    found: Any = _import_module(name)
    for attribute in attributes:
        parent, name = name, f"{name}.{attribute}"
        # An attribute wins over a submodule of the same name, as in `from package import name`.
        if not hasattr(found, attribute) and isinstance(found, ModuleType) and hasattr(found, "__path__"):
            _import_module(name, siblings=dir(found))
        if not hasattr(found, attribute):
            raise TargetError(f"'{parent}' has no attribute '{attribute}'.", suggest(attribute, _public(dir(found))))
        found = getattr(found, attribute)
    if not callable(found):
        raise TargetError(f"'{path}' is a {type(found).__name__} and cannot be called.", "Name a class or a function.")
    return found


def _import_module(name: str, siblings: list[str] | None = None) -> ModuleType:
    parent, _, last = name.rpartition(".")
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name and parent:
            remedy = suggest(last, _public(siblings or []))
            raise TargetError(f"'{parent}' has no module or attribute '{last}'.", remedy) from error
        missing = (error.name or name).partition(".")[0]
        blame = "There is" if error.name == name else f"Importing '{name}' needs a module that is not there:"
        raise TargetError(f"{blame} no module '{missing}'.", f"Check the path, or install '{missing}'.") from error
    except Exception as error:  # whatever a module's own code raises is the user's news, with its cause attached
        reason = f"{type(error).__name__}: {error}"
        raise TargetError(f"Importing '{name}' fails with {reason}.", "Mend that import first.") from error


def _public(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]
