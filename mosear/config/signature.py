"""Binds a ``_target_`` node's entries against the signature of what it names, without calling it."""

import inspect
import sys
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mosear.config.annotations import UNREAD, describe, describe_value, fits, literal_choices
from mosear.config.targets import TargetError, resolve_target
from mosear.problems import ABSENT, Problem, close_name, join_key, suggest

HYDRA_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")

_ByName = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_ByPosition = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def bind(
    node: Mapping[str, Any], key: str, *, incomplete: bool = False, supplied: Collection[str] = ()
) -> Iterator[Problem]:
    """Yields what would go wrong in the call that a node describes.

    Args:
        node: Plain mapping with a ``_target_``.
        key: Dotted path of the node.
        incomplete: Required parameters may be missing: someone else supplies them. Implied by ``_partial_: true``.
        supplied: Names of parameters that our code passes when it instantiates the node.
    """
    if node["_target_"] is UNREAD:
        return
    try:
        target = resolve_target(node["_target_"])
        parameters = inspect.signature(target).parameters
    except TargetError as error:
        yield Problem(join_key(key, "_target_"), node["_target_"], error.message, error.remedy)
        return
    except (TypeError, ValueError):  # some classes written in C publish no signature
        return
    name = getattr(target, "__qualname__", node["_target_"])
    call = _Call(node, key, name, parameters, frozenset(supplied))
    yield from call.bad_values(_Annotations(target))
    yield from call.unknown_keys()
    if not (incomplete or node.get("_partial_") or node.get("_args_") is UNREAD):
        yield from call.missing_parameters()


class _Call:
    """One node beside the parameters it is meant for."""

    def __init__(
        self,
        node: Mapping[str, Any],
        key: str,
        name: str,
        parameters: Mapping[str, inspect.Parameter],
        supplied: frozenset[str],
    ) -> None:
        self.key = key
        self.name = name
        self.parameters = parameters
        self.supplied = supplied
        self.builds_children = node.get("_recursive_", True)
        positional = node.get("_args_")
        self.arguments: list[Any] = positional if isinstance(positional, list) else []
        self.entries = {entry: value for entry, value in node.items() if entry not in HYDRA_KEYS}
        slots = [parameter for parameter in parameters.values() if parameter.kind in _ByPosition]
        self.by_position = slots[: len(self.arguments)]
        self.surplus = self.arguments[len(slots) :] if not self._has(inspect.Parameter.VAR_POSITIONAL) else []

    def bad_values(self, annotations: "_Annotations") -> Iterator[Problem]:
        """Values that do not fit their parameter's annotation, and positional ones too many."""
        for position, parameter in enumerate(self.by_position):
            key = f"{join_key(self.key, '_args_')}[{position}]"
            yield from self._bad_value(key, self.arguments[position], parameter, annotations)
        if self.surplus:
            message = f"{self.name} takes {len(self.by_position)} positional arguments, not {len(self.arguments)}."
            yield Problem(
                join_key(self.key, "_args_"), self.arguments, message, "Remove the last ones, or pass them by name."
            )
        for entry, value in self.entries.items():
            named = self.parameters.get(entry)
            if named is not None and named.kind in _ByName:
                yield from self._bad_value(join_key(self.key, entry), value, named, annotations)

    def unknown_keys(self) -> Iterator[Problem]:
        """Entries that name no parameter, or one that is taken already."""
        taken = {parameter.name for parameter in self.by_position}
        accepted = [name for name, parameter in self.parameters.items() if parameter.kind in _ByName]
        for entry, value in self.entries.items():
            key = join_key(self.key, entry)
            if entry in taken:
                message = f"{self.name} gets '{entry}' twice: by name and in '_args_'."
                yield Problem(key, value, message, "Remove one of the two.")
            elif entry not in accepted and not self._has(inspect.Parameter.VAR_KEYWORD):
                free = [name for name in accepted if name not in self.entries and name not in taken]
                meant = close_name(entry, accepted)  # also one that has a value already: it was misspelt
                remedy = f"Did you mean '{meant}'?" if meant else suggest(entry, free)
                yield Problem(key, value, f"{self.name} has no parameter '{entry}'.", remedy)

    def missing_parameters(self) -> Iterator[Problem]:
        """Required parameters that get no value."""
        given = self.supplied | self.entries.keys() | {parameter.name for parameter in self.by_position}
        for parameter in self.parameters.values():
            required = parameter.default is parameter.empty and parameter.kind in {*_ByName, *_ByPosition}
            if required and parameter.name not in given:
                key = join_key(self.key, parameter.name)
                message = f"{self.name} needs a value for '{parameter.name}'."
                yield Problem(key, ABSENT, message, f"Add {key}=... to the config.")

    def _bad_value(
        self, key: str, value: object, parameter: inspect.Parameter, annotations: "_Annotations"
    ) -> Iterator[Problem]:
        if isinstance(value, dict | list) and not self.builds_children:
            return  # handed over as config, whatever it describes
        annotation = annotations.of(parameter)
        # `x: int = None` is an old way to write an optional one.
        if fits(value, annotation) or (value is None and parameter.default is None):
            return
        found = repr(value) if isinstance(value, str) and literal_choices(annotation) else _kind(value)
        message = f"{self.name} wants '{parameter.name}' to be {describe(annotation)}, not {found}."
        yield Problem(key, value, message, _remedy(value, annotation))

    def _has(self, kind: Any) -> bool:
        return any(parameter.kind is kind for parameter in self.parameters.values())


class _Annotations:
    """Evaluates the annotations of one callable, one by one: a name that only type checkers see spoils no other."""

    def __init__(self, target: Any) -> None:
        initialiser = target.__init__
        written_in = inspect.unwrap(initialiser if isinstance(target, type) else target)
        owners = target.__mro__ if isinstance(target, type) else ()
        # An inherited dataclass field is annotated in the module of the base class.
        modules = [vars(sys.modules[owner.__module__]) for owner in owners if owner.__module__ in sys.modules]
        self._names = ChainMap(getattr(written_in, "__globals__", {}), *modules)

    def of(self, parameter: inspect.Parameter) -> Any:
        """Returns the annotation of ``parameter``; ``Any`` if it has none or it cannot be evaluated."""
        annotation = parameter.annotation
        if annotation is parameter.empty:
            return Any
        if not isinstance(annotation, str):
            return annotation
        try:
            return eval(annotation, {}, self._names)
        except Exception:  # an annotation is arbitrary code and may raise anything
            return Any


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict) and "_target_" in value:
        return f"what {value['_target_']} builds"
    return describe_value(value)


def _remedy(value: object, annotation: Any) -> str:
    if choices := literal_choices(annotation):
        return suggest(value, choices)
    if isinstance(value, str) and fits(_unquoted(value), annotation):
        return f"Write {value} without quotes."
    if isinstance(value, int | float) and fits(str(value), annotation):
        return f"Quote it: '{value}'."
    return "Give it a value of that type."


def _unquoted(text: str) -> object:
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
