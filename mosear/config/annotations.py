"""Does a config value fit a type annotation?

Config files hold scalars, lists, mappings and nodes that will be instantiated (``_target_``). Annotations come from
Python signatures and can be anything. The answer is "no" only where that is sure: whatever is not understood here
(type variables, forward references, protocols) accepts every value.
"""

import collections.abc as abc
import dataclasses
import enum
import functools
import inspect
import os
import types
from collections.abc import Iterable
from typing import Annotated, Any, Final, ForwardRef, Literal, TypeVar, Union, get_args, get_origin, is_typeddict

from omegaconf import DictConfig, ListConfig

from mosear.config.targets import TargetError, is_target_node, resolve_target


class _Unread:
    """Type of ``UNREAD``."""

    def __repr__(self) -> str:
        return "<unread>"


UNREAD: Final = _Unread()
"""A value that could not be read (missing, or a broken interpolation). Reported where it stands, fits everywhere."""

_LISTS = frozenset(
    {list, tuple, set, frozenset, ListConfig, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable}
    | {abc.Container, abc.Set, abc.MutableSet, abc.Reversible}
)
_MAPPINGS = frozenset({dict, DictConfig, abc.Mapping, abc.MutableMapping})


def fits(value: object, annotation: Any) -> bool:
    """Tells whether a config value may be passed to a parameter annotated with ``annotation``.

    An int is a float, but a bool is not an int. A string is a path, but not a sequence of strings. A list also serves
    as a tuple or a set, since YAML has neither. A ``_target_`` node fits if the class it builds is a subclass of the
    annotated one, or if what it builds is unknown.

    Args:
        value: A scalar, a list, a dict (perhaps with ``_target_``) or ``UNREAD``.
        annotation: An evaluated annotation, not a string.
    """
    annotation = _unwrap(annotation)
    origin: Any = get_origin(annotation) or annotation
    if value is UNREAD or origin is Any or origin is object:
        return True
    if isinstance(origin, TypeVar | ForwardRef | str | list | dict):  # the last three are no types at all
        return True
    if origin is Union or origin is types.UnionType:
        return any(fits(value, arm) for arm in get_args(annotation))
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(annotation))
    if origin is None or origin is types.NoneType:
        return value is None
    if is_target_node(value):
        return _node_fits(value, origin)
    if isinstance(value, dict):
        return _mapping_fits(value, origin, get_args(annotation))
    if isinstance(value, list):
        return _list_fits(value, origin, get_args(annotation))
    return _scalar_fits(value, origin)


def literal_choices(annotation: Any) -> list[object]:
    """Returns the values of every ``Literal`` in ``annotation``, those inside unions too."""
    annotation = _unwrap(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return list(get_args(annotation))
    if origin is Union or origin is types.UnionType:
        return [choice for arm in get_args(annotation) for choice in literal_choices(arm)]
    return []


_ONE = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping", list: "a list"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts", bool: "true or false"}


def describe(annotation: Any) -> str:
    """Returns ``annotation`` in words for a reader of config files; None is ``null``, a class its short name."""
    annotation = _unwrap(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is types.NoneType:
        return "null"
    if origin is Union or origin is types.UnionType:
        return " or ".join(dict.fromkeys(map(describe, arguments)))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in _LISTS and arguments and arguments[-1] in (arguments[0], Ellipsis):
        return f"a list of {_MANY.get(_unwrap(arguments[0])) or describe(arguments[0])}"
    if origin in _MAPPINGS and arguments:
        return "a mapping"
    if isinstance(annotation, type) and annotation in _ONE:
        return _ONE[annotation]
    return getattr(origin or annotation, "__name__", None) or inspect.formatannotation(annotation)


def describe_value(value: object) -> str:
    """Returns the kind of a value in the same words."""
    if isinstance(value, bool):
        return str(value).lower()
    return _ONE.get(type(value)) or type(value).__name__


def _unwrap(annotation: Any) -> Any:
    """Takes off what carries no type of its own: ``Annotated``, ``Final``, ``NewType``, a ``type X = ...`` alias."""
    while True:
        if get_origin(annotation) in (Annotated, Final):
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # typing has the class from Python 3.12 on
            annotation = annotation.__value__
        else:
            return annotation


def _node_fits(node: Any, wanted: Any) -> bool:
    try:
        target = resolve_target(node["_target_"])
    except TargetError:
        return True
    allocator: Any = target.__new__
    if node.get("_partial_"):
        built: type = functools.partial
    elif isinstance(target, type) and allocator is object.__new__:
        built = target
    else:
        return True  # a function, or a class whose __new__ may build something else
    return _is_subclass(built, wanted)


def _is_subclass(built: type, wanted: Any) -> bool:
    try:
        return issubclass(built, wanted)
    except TypeError:  # not a class, or a protocol that cannot be checked
        return True


def _mapping_fits(value: dict[Any, Any], wanted: Any, arguments: tuple[Any, ...]) -> bool:
    if wanted in _MAPPINGS:
        if len(arguments) != 2:
            return True
        return all(fits(key, arguments[0]) and fits(item, arguments[1]) for key, item in value.items())
    # Hydra passes a plain mapping through; attribute access makes it a stand-in for a dataclass.
    return is_typeddict(wanted) or dataclasses.is_dataclass(wanted) or _is_instance(value, wanted)


def _list_fits(value: list[Any], wanted: Any, arguments: tuple[Any, ...]) -> bool:
    if wanted not in _LISTS:
        return _is_instance(value, wanted)
    if wanted is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return not arguments or all(fits(item, arguments[0]) for item in value)


def _scalar_fits(value: object, wanted: Any) -> bool:
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, str):
        if wanted in _LISTS:
            return False
        if isinstance(wanted, enum.EnumMeta):
            members: Iterable[enum.Enum] = wanted.__members__.values()
            return value in wanted.__members__ or any(value == member.value for member in members)
        if isinstance(wanted, type) and issubclass(wanted, os.PathLike):
            return True
    return _is_instance(value, wanted)


def _is_instance(value: object, wanted: Any) -> bool:
    try:
        return isinstance(value, wanted)
    except TypeError:  # not a class, or a protocol that cannot be checked
        return True
