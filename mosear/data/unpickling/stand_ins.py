"""What answers the names in a pickle: objects that make containers, bytes and arrays, and nothing else."""

from __future__ import annotations

import io
import math
import re
import sys
from typing import Any

import numpy as np

_PLAIN_DTYPE = re.compile(r"[<>|=]?([biufcSU][0-9]*|O[48]?)")


class UnsafePickleError(ValueError):
    """The file cannot be read safely; the message says what it asks for, or what is wrong with it."""


class _Maker:
    """Answers a name of the file. It has no state that the file could set, and is no class that it could fill."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def __setattr__(self, name: str, value: object) -> None:
        raise UnsafePickleError(f"setting {name!r} of {self.name} is not allowed in a feature file")

    def __setstate__(self, state: object) -> None:
        raise UnsafePickleError(f"setting the state of {self.name} is not allowed in a feature file")

    def __call__(self, *arguments: Any) -> Any:
        raise UnsafePickleError(f"calling {self.name} with {len(arguments)} values is not allowed in a feature file")


class _Container(_Maker):
    """list, dict, set and the like, of a container that is in the file."""

    __slots__ = ("kind",)
    kind: type

    def __init__(self, name: str, kind: type) -> None:
        super().__init__(name)
        object.__setattr__(self, "kind", kind)

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) > 1 or not all(isinstance(value, list | tuple | dict | set) for value in arguments):
            return super().__call__(*arguments)
        return self.kind(*arguments)


class _DefaultDict(_Maker):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> dict[Any, Any]:
        if len(arguments) > 1 or not all(value is None or isinstance(value, _Maker) for value in arguments):
            super().__call__(*arguments)
        return {}


class _Bytes(_Maker):
    """``bytes()``, ``bytearray(b"..")``, ``bytearray(text, "latin-1")`` and ``_codecs.encode(text, "latin1")``."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        if not arguments:
            return b""
        value, *encoding = arguments
        if isinstance(value, bytes | bytearray) and not encoding:
            return bytes(value)
        if isinstance(value, str) and encoding in (["latin1"], ["latin-1"]):
            return value.encode("latin1")
        return super().__call__(*arguments)


class _Complex(_Maker):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> complex:
        if len(arguments) != 2 or not all(isinstance(value, int | float) for value in arguments):
            super().__call__(*arguments)
        return complex(*arguments)


class _Dtype:
    """A type of numbers or text while it is read; its byte order comes as state."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 8 or state[1] not in ("<", ">", "|", "="):
            raise UnsafePickleError(f"a numpy dtype with the state {state!r:.60} is not allowed in a feature file")
        if any(part is not None for part in state[2:5]):
            raise UnsafePickleError("a numpy dtype with fields is not allowed in a feature file")
        self.code = state[1] + self.code.lstrip("<>|=")

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.code)


class _MakeDtype(_Maker):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Dtype:
        code = arguments[0] if arguments else None
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise UnsafePickleError(f"a numpy dtype {code!r:.40} is not allowed in a feature file")
        return _Dtype(code)


class ArrayRead:
    """An array while it is read: its numbers, or the objects in it, come as state."""

    __slots__ = ("items", "shape", "values")

    def __init__(self, values: np.ndarray | None = None) -> None:
        self.values, self.items, self.shape = values, [], ()  # type: ignore[var-annotated]

    def __setstate__(self, state: Any) -> None:
        if self.values is not None or self.items or not isinstance(state, tuple) or len(state) != 5:
            raise UnsafePickleError("a numpy array whose state is set in another way is not allowed in a feature file")
        _, shape, kind, fortran, data = state
        if isinstance(kind, _Dtype) and kind.dtype.hasobject:
            _check_shape(shape)
            if not isinstance(data, list) or len(data) != math.prod(shape) or (fortran and len(shape) > 1):
                raise UnsafePickleError(f"an array of {shape} objects that does not list as many is not allowed")
            self.items, self.shape = data, shape
        else:
            self.values = _numbers(data, kind, shape, "F" if fortran else "C")


class _MakeArray(_Maker):
    """``_reconstruct(ndarray, (0,), b"b")``: an array that is still empty."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> ArrayRead:
        if len(arguments) != 3 or getattr(arguments[0], "name", None) != "numpy.ndarray" or arguments[1] != (0,):
            super().__call__(*arguments)
        return ArrayRead()


class _FromBuffer(_Maker):
    """``_frombuffer(bytes, dtype, shape, order)``, which numpy writes in protocol 5."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> ArrayRead:
        if len(arguments) != 4 or arguments[3] not in ("C", "F"):
            super().__call__(*arguments)
        return ArrayRead(_numbers(*arguments))


class _Scalar(_Maker):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) != 2:
            super().__call__(*arguments)
        return _numbers(arguments[1], arguments[0], (), "C").item()


class _TorchStorage(_Maker):
    """``_load_from_bytes``: upstream's unpickles without limits; this one takes weights alone."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) != 1 or not isinstance(arguments[0], bytes):
            super().__call__(*arguments)
        import torch

        try:
            storage = torch.load(io.BytesIO(arguments[0]), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever it is, the file is to blame; torch's own text advises to run the pickle
            told = f"a torch tensor that needs more than weights ({type(error).__name__})"
            raise UnsafePickleError(f"{told} is not allowed in a feature file") from None
        if not isinstance(storage, torch.storage.TypedStorage):
            raise UnsafePickleError(f"a torch {type(storage).__name__} is not allowed in a feature file")
        return _Storage(torch.tensor([], dtype=storage.dtype).set_(storage))


class _Storage:
    __slots__ = ("values",)

    def __init__(self, values: Any) -> None:
        self.values = values

    def __setstate__(self, state: object) -> None:
        raise UnsafePickleError("setting the state of a torch storage is not allowed in a feature file")


class _Tensor(_Maker):
    """``_rebuild_tensor_v2(storage, offset, size, stride, ...)``, as a numpy array."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> ArrayRead:
        if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
            super().__call__(*arguments)
        storage, offset, size, stride = arguments[0].values, *arguments[1:4]
        for numbers in (size, stride, (offset,)):
            _check_shape(numbers)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= len(storage):
            raise UnsafePickleError("a torch tensor that is larger than its storage is not allowed in a feature file")
        if math.prod(size) > len(storage):  # repeated by strides of 0
            raise UnsafePickleError("a torch tensor that repeats its storage is not allowed in a feature file")
        tensor = storage.as_strided(size, stride, offset)
        return ArrayRead((tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy())


class _Parameter(_Maker):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> ArrayRead:
        if not arguments or not isinstance(arguments[0], ArrayRead):
            super().__call__(*arguments)
        return arguments[0]


def _allowed() -> dict[str, _Maker]:
    makers: list[_Maker] = [_Container(f"builtins.{k.__name__}", k) for k in (list, dict, set, frozenset, tuple)]
    makers += [_Container("collections.OrderedDict", dict), _DefaultDict("collections.defaultdict")]
    makers += [_Maker(f"builtins.{k}") for k in ("int", "float", "str", "bool")]  # what a defaultdict may begin with
    makers += [_Complex("builtins.complex"), _Bytes("builtins.bytes"), _Bytes("builtins.bytearray")]
    makers += [_Bytes("_codecs.encode"), _Maker("numpy.ndarray"), _MakeDtype("numpy.dtype")]
    makers += [_MakeArray("numpy._core.multiarray._reconstruct"), _Scalar("numpy._core.multiarray.scalar")]
    makers += [_FromBuffer("numpy._core.numeric._frombuffer"), _TorchStorage("torch.storage._load_from_bytes")]
    makers += [_Tensor("torch._utils._rebuild_tensor_v2"), _Parameter("torch._utils._rebuild_parameter")]
    return {maker.name: maker for maker in makers}


_ALLOWED = _allowed()


def stand_in(module: str, name: str) -> _Maker:
    modern = {"__builtin__": "builtins"}.get(module, re.sub(r"^numpy\.core\.", "numpy._core.", module))
    found = _ALLOWED.get(f"{modern}.{name}")
    if found is None or "." in name:
        raise UnsafePickleError(
            f"{module}.{name} is not allowed in a feature file, which holds numbers, text, containers and arrays; "
            "do not open it with pickle or numpy unless you trust where it comes from"
        )
    return found


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise UnsafePickleError(f"an array of shape {shape!r:.60} is not allowed in a feature file")


def _numbers(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    """``[*shape]`` of the bytes, which are not copied."""
    if not isinstance(kind, _Dtype) or kind.dtype.hasobject or not kind.dtype.itemsize:
        named = kind.code if isinstance(kind, _Dtype) else type(kind).__name__
        raise UnsafePickleError(f"an array of {named} made of bytes is not allowed in a feature file")
    _check_shape(shape)
    if isinstance(data, str):  # bytes of Python 2
        data = data.encode("latin1")
    size = math.prod(shape) * kind.dtype.itemsize
    if not isinstance(data, bytes | bytearray) or len(data) != size:
        held = f"{len(data)} bytes" if isinstance(data, bytes | bytearray) else type(data).__name__
        raise UnsafePickleError(f"an array of {kind.code} with shape {shape} needs {size} bytes, not {held}")
    if kind.dtype.kind == "U" and np.any(np.frombuffer(data, kind.dtype.byteorder + "u4") > sys.maxunicode):
        raise UnsafePickleError("an array of text with characters that do not exist is not allowed in a feature file")
    values = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
    values.flags.writeable = False
    return values
