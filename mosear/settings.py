"""Settings are spelled once: a dataclass's annotations say what its values must be, and :func:`settings` checks them.

    @settings
    @dataclass(frozen=True)
    class Tuning:
        learning_rate: Positive = 1e-4
        warmup: Annotated[float, Interval(ge=0, lt=1), "a share of the steps"] = 0.05
        schedule: Literal["cosine", "linear", "constant"] = "cosine"

        def further_problems(self) -> Iterable[str]:  # what no single annotation can say
            ...

``Literal`` names the values, the marks of ``annotated_types`` bound numbers and lengths, and text among the marks is
added to the error. Numbers must be finite, a bool is no number, and a string is neither a bool nor a list. An
annotation that is not understood here, or cannot be evaluated, accepts every value.

:func:`arguments` does the same for a constructor that is no dataclass's.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import functools
import inspect
import math
import operator
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen

__all__ = ["AtLeastOne", "NotNegative", "Positive", "Share", "arguments", "check", "settings"]

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
AtLeastOne = Annotated[int, Ge(1)]
Share = Annotated[float, Interval(ge=0, lt=1)]

Cls = TypeVar("Cls", bound=type)
Constructor = TypeVar("Constructor", bound=Callable[..., None])
_SEQUENCES: Final = (abc.Sequence, tuple, list)
_MAPPINGS: Final = (dict, abc.Mapping)
_NAMES: Final[dict[Any, str]] = {float: "number", int: "whole number", str: "string"}
_BOUNDS: Final[dict[type, tuple[str, Callable[[Any, Any], bool]]]] = {
    Gt: ("gt", operator.gt),
    Ge: ("ge", operator.ge),
    Lt: ("lt", operator.lt),
    Le: ("le", operator.le),
}


class _Wrong(Exception):
    """A value does not fit; the text follows "must"."""


def settings(cls: Cls) -> Cls:
    """Class decorator over ``@dataclass``: values are checked, and brought into form, before they are stored.

    Where the annotation is a tuple or a ``Sequence``, a list becomes a tuple; where it is a dataclass, a mapping
    becomes one; where it is a path, text does; numbers of other libraries become Python's. ``further_problems``, if
    the class has it, is asked once the values are stored.

    The constructor raises ``ValueError``: "Class: field=value must ...; field=value must ...."
    """
    original = cls.__init__  # type: ignore[misc]
    positional = [field.name for field in dataclasses.fields(cls) if field.init and not field.kw_only]

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        reader = _Reader(cls)
        read = [reader.read(name, value) for name, value in zip(positional, args, strict=False)]
        named = {name: reader.read(name, value) for name, value in kwargs.items()}
        original(self, *read, *args[len(positional) :], **named)
        reader.finish(self)

    cls.__init__ = __init__  # type: ignore[misc]
    return cls


def arguments(constructor: Constructor) -> Constructor:
    """Decorator of an ``__init__``: its arguments are checked, and brought into form, as :func:`settings` does.

    Raises:
        ValueError: naming everything that is wrong.
    """
    signature = inspect.signature(constructor)
    annotations = _evaluated(inspect.get_annotations(constructor), vars(sys.modules[constructor.__module__]))

    @functools.wraps(constructor)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        reader = _Reader(type(self), annotations)
        for name, value in list(bound.arguments.items())[1:]:
            bound.arguments[name] = reader.read(name, value)
        if reader.problems:
            raise ValueError(f"{type(self).__name__}: {'; '.join(reader.problems)}.")
        constructor(*bound.args, **bound.kwargs)

    return __init__  # type: ignore[return-value]


def check(instance: Any) -> None:
    """Checks the fields of a dataclass as they are, for one that cannot be decorated by :func:`settings`.

    Raises:
        ValueError: naming everything that is wrong.
    """
    reader = _Reader(type(instance))
    for field in dataclasses.fields(instance):
        reader.read(field.name, getattr(instance, field.name))
    reader.finish(instance)


class _Reader:
    """Brings the values of one object into form, and collects what is wrong with them."""

    def __init__(self, cls: type, annotations: Mapping[str, Any] | None = None) -> None:
        self.cls = cls
        self.annotations = _annotations(cls) if annotations is None else annotations
        self.problems: list[str] = []

    def read(self, name: str, value: Any) -> Any:
        """The value in form; as it is, with a problem noted, if it does not fit."""
        try:
            return _read(value, self.annotations.get(name, Any))
        except _Wrong as wrong:
            self.problems.append(f"{name}={value!r} must {wrong}")
        except ValueError as error:  # of nested settings
            self.problems.append(f"{name}: {str(error).rstrip('.')}")
        return value

    def finish(self, instance: Any) -> None:
        """Ask the object for what its annotations cannot say, and raise if anything is wrong."""
        try:
            self.problems += getattr(instance, "further_problems", list)()
        except Exception:
            # Among values that are known to be wrong, a check of several may find text for a number.
            if not self.problems:
                raise
        if self.problems:
            raise ValueError(f"{self.cls.__name__}: {'; '.join(self.problems)}.")


@functools.cache
def _annotations(cls: type) -> Mapping[str, Any]:
    """Of each field, evaluated; a name that only type checkers see spoils no other annotation."""
    found: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        names = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
        found |= _evaluated(inspect.get_annotations(owner), names)
    return found


def _evaluated(annotations: Mapping[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, annotation in annotations.items():
        try:
            found[name] = eval(annotation, names) if isinstance(annotation, str) else annotation
        except Exception:  # an annotation is arbitrary code and may raise anything
            found[name] = Any
    return found


def _read(value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _read_marked(value, arguments[0], arguments[1:])
    if origin is Union or origin is types.UnionType:
        return _read_union(value, arguments)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
        raise _Wrong(f"be one of {', '.join(map(str, arguments))}")
    if annotation is None or annotation is types.NoneType:
        if value is None:
            return None
        raise _Wrong("be null")
    if annotation in (float, int):
        return _read_number(value, annotation)
    if (origin or annotation) in _SEQUENCES:
        return _read_sequence(value, annotation)
    if (origin or annotation) in _MAPPINGS:
        return _read_mapping(value, annotation)
    return _read_class(value, origin or annotation, annotation)


def _read_marked(value: Any, annotation: Any, marks: Iterable[Any]) -> Any:
    marks = [single for mark in marks for single in (mark if isinstance(mark, Interval) else [mark])]
    bounds = [mark for mark in marks if type(mark) in _BOUNDS]
    meant = "".join(f" ({mark})" for mark in marks if isinstance(mark, str))
    try:
        if bounds and isinstance(value, float) and not math.isfinite(value):
            raise _Wrong(f"be finite and {_bounded(bounds, whole=False).replace('be ', '')}")
        read = _read(value, annotation)
        if read is not None and not all(_holds(read, mark) for mark in bounds):
            raise _Wrong(_bounded(bounds, whole=annotation is int or int in get_args(annotation)))
        least = next((mark.min_length for mark in marks if isinstance(mark, MinLen)), 0)
        if least and read is not None and len(read) < least:
            raise _Wrong(f"hold at least {least}")
    except _Wrong as wrong:
        raise _Wrong(f"{wrong}{meant}") from None
    return read


def _limit(mark: Any) -> Any:
    return getattr(mark, _BOUNDS[type(mark)][0])


def _holds(value: Any, mark: Any) -> bool:
    return _BOUNDS[type(mark)][1](value, _limit(mark))


def _bounded(bounds: Sequence[Any], *, whole: bool) -> str:
    """What a number between these bounds must do."""
    low = next((mark for mark in bounds if isinstance(mark, Gt | Ge)), None)
    high = next((mark for mark in bounds if isinstance(mark, Lt | Le)), None)
    if low is None:
        return f"be {'at most' if isinstance(high, Le) else 'below'} {_limit(high)}"
    if high is not None and whole and isinstance(low, Ge) and isinstance(high, Le):
        return f"lie in {_limit(low)}..{_limit(high)}"
    if high is not None:
        opening, closing = "[" if isinstance(low, Ge) else "(", "]" if isinstance(high, Le) else ")"
        return f"lie in {opening}{_limit(low)}, {_limit(high)}{closing}"
    if _limit(low) == 0:
        return "be positive" if isinstance(low, Gt) else "not be negative"
    return f"be {'above' if isinstance(low, Gt) else 'at least'} {_limit(low)}"


def _read_union(value: Any, arms: Sequence[Any]) -> Any:
    complaints = []
    for arm in arms:
        try:
            return _read(value, arm)
        except _Wrong as wrong:
            if arm is not types.NoneType:
                complaints.append(str(wrong))
    first, *others = dict.fromkeys(complaints)
    raise _Wrong(" or ".join([first, *(other.removeprefix("be ") for other in others)]))


def _read_number(value: Any, annotation: type) -> int | float:
    kind: Any = Integral if annotation is int else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise _Wrong(f"be {_described(annotation)}")
    if not isinstance(value, int) and not math.isfinite(value):
        raise _Wrong("be a finite number")
    if isinstance(value, int | float):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _read_sequence(value: Any, annotation: Any) -> Sequence[Any]:
    kind, parts = get_origin(annotation) or annotation, get_args(annotation)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if kind is not tuple or parts[1:] == (Ellipsis,):
            parts = parts[:1] * len(value)
        try:
            if not parts or len(parts) == len(value):
                read = tuple(map(_read, value, parts)) if parts else tuple(value)
                return list(read) if kind is list else read
        except _Wrong:
            pass
    raise _Wrong(f"be {_described(annotation)}")


def _read_mapping(value: Any, annotation: Any) -> Any:
    key, item = get_args(annotation) or (Any, Any)
    try:
        if isinstance(value, Mapping):
            for name, content in value.items():
                _read(name, key), _read(content, item)
            return value
    except _Wrong:
        pass
    raise _Wrong(f"be a mapping from {_several(key)} to {_several(item)}")


def _read_class(value: Any, wanted: Any, annotation: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
        try:
            return wanted(**value)
        except TypeError as error:  # of unknown names
            raise ValueError(str(error)) from error
    if isinstance(value, str) and isinstance(wanted, type) and issubclass(wanted, Path):
        return wanted(value)
    try:
        fits = not isinstance(wanted, type) or isinstance(value, wanted)
    except TypeError:  # a protocol that cannot be checked
        return value
    if not fits:
        raise _Wrong(f"be {_described(annotation)}")
    return value


def _described(annotation: Any) -> str:
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Annotated:
        return _described(arguments[0])
    if annotation in _NAMES:
        return f"a {_NAMES[annotation]}"
    if annotation is bool:
        return "true or false"
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"[{', '.join(_NAMES.get(part) or _described(part) for part in arguments)}]"
    if origin in _SEQUENCES:
        return f"a list of {_several(arguments[0])}" if arguments else "a list"
    return getattr(origin, "__name__", None) or str(annotation)


def _several(annotation: Any) -> str:
    return f"{_NAMES[annotation]}s" if annotation in _NAMES else _described(annotation)
