"""Reads published pickles without running what a pickle may contain.

A pickle is a program: it may call any function it can name. Here the names that files of features and labels need are
answered by stand-ins (:mod:`mosear.data.unpickling.stand_ins`), and every other name is refused before anything is
built from it. The stand-ins are no classes, and make numbers, text, containers and numpy arrays of them; no function of
another library is called with what the file says, except ``numpy.frombuffer`` on bytes whose number was compared with
shape and type, and, for torch tensors, ``torch.load(weights_only=True)``.

Before a file is loaded its opcodes are listed: those that reach outside the file are refused, and so are lengths and
memo indices that the file cannot hold (they would allocate memory). What remains to a hostile file is to waste time.
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from mosear.data.unpickling.stand_ins import ArrayRead, UnsafePickleError, stand_in

MOST_NESTED = 64
"""Containers within containers; published files have about four."""

# Nothing of another library runs but what the stand-ins call, so whatever is raised is about the file.
_DAMAGE = (
    *(pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError),
    *(MemoryError, RecursionError, RuntimeError, TypeError, ValueError),
)
_SCALARS = (str, bytes, bytearray, int, float, complex, bool, type(None))
_REFUSED_OPCODES = {
    **dict.fromkeys(("PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"), "it asks for data outside the file"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "it asks for registered extensions"),
}


def read_pickle(path: Path, encoding: str = "latin1") -> Any:
    """The value in a pickle: numbers, text, containers, numpy arrays of them.

    Arrays are read-only and hold the file's own bytes; ``OrderedDict`` and ``defaultdict`` are plain dicts.

    Args:
        path: the file.
        encoding: of text that Python 2 wrote as bytes; ``latin1`` reads its arrays too.

    Raises:
        UnsafePickleError: The file asks for anything else, or is damaged.
    """
    with open(path, "rb") as file:
        start = file.read(32)
        if not start:
            raise UnsafePickleError(f"{path} is empty; fetch it again")
        if start.startswith(b"version https://git-lfs"):
            raise UnsafePickleError(f"{path} is a Git LFS pointer, not the data: run `git lfs pull` in its repository")
        if start.startswith((b"PK\x03\x04", b"\x1f\x8b", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9")):
            raise UnsafePickleError(
                f"{path} is an archive (zip, gzip or torch.save) and no plain pickle; unpack it first"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return load_pickle(data, str(path), encoding)


def load_pickle(data: bytes | mmap.mmap, where: str, encoding: str = "latin1") -> Any:
    """As :func:`read_pickle`, from bytes; ``where`` names them in errors."""
    file = data if isinstance(data, mmap.mmap) else io.BytesIO(data)
    try:
        _check_opcodes(file, len(data))
        file.seek(0)
        return _resolved(_Unpickler(file, encoding=encoding).load(), {}, 0)
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{where}: {error}") from None
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise UnsafePickleError(f"{where} is no pickle that can be read: {reason}") from None


def _check_opcodes(file: Any, size: int) -> None:
    """Refuses what no file of features needs, before anything is built."""
    argument: Any
    for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
        if opcode.name in _REFUSED_OPCODES:
            why = _REFUSED_OPCODES[opcode.name]
            raise UnsafePickleError(f"{opcode.name} is not allowed in a feature file: {why}")
        if opcode.name in ("GLOBAL", "INST"):
            stand_in(*argument.split(" ", 1))
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > count:
            raise UnsafePickleError(f"memo index {argument} after {count} operations is not allowed in a feature file")
        if opcode.name == "FRAME" and argument > size - (position or 0):
            raise UnsafePickleError(f"the file ends within a frame of {argument:,} bytes; fetch it again")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return stand_in(module, name)


def _resolved(value: Any, seen: dict[int, tuple[Any, Any]], depth: int) -> Any:
    """The value with arrays in place of stand-ins; refuses what is left of them."""
    if isinstance(value, _SCALARS):
        return value
    if depth > MOST_NESTED:
        raise UnsafePickleError(f"more than {MOST_NESTED} containers within each other are not allowed")
    if id(value) in seen:
        return seen[id(value)][1]
    if isinstance(value, ArrayRead):
        return _resolved_array(value, seen, depth)
    if isinstance(value, list):
        seen[id(value)] = (value, value)
        for index, part in enumerate(value):
            value[index] = _resolved(part, seen, depth + 1)
        return value
    if isinstance(value, dict):
        seen[id(value)] = (value, value)
        for key, part in value.items():
            _resolved_key(key)
            value[key] = _resolved(part, seen, depth + 1)
        return value
    if isinstance(value, tuple | set | frozenset):
        made = type(value)(_resolved(part, seen, depth + 1) for part in value)
        seen[id(value)] = (value, made)
        return made
    held = getattr(value, "name", type(value).__name__.strip("_").lower())
    raise UnsafePickleError(f"{held} as a value is not allowed in a feature file")


def _resolved_array(array: ArrayRead, seen: dict[int, tuple[Any, Any]], depth: int) -> np.ndarray:
    values = array.values if array.values is not None else np.empty(len(array.items), dtype=object)
    seen[id(array)] = (array, values)
    if array.values is None:
        for index, part in enumerate(array.items):
            values[index] = _resolved(part, seen, depth + 1)
        values = values.reshape(array.shape)
        seen[id(array)] = (array, values)
    return values


def _resolved_key(key: Any) -> None:
    parts = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, _SCALARS) for part in parts):
        raise UnsafePickleError("keys other than numbers and text are not allowed in a feature file")
