"""Pickles of features are read without running what is in them."""

import collections
import contextlib
import functools
import io
import os
import pickle
import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mosear.data.unpickling import UnsafePickleError, load_pickle, read_pickle

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "big endian": np.arange(6, dtype=">f8").reshape(3, 2),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    "a view": np.arange(16).reshape(4, 4)[::2],
    "empty": np.zeros((0, 4)),
    "a number": np.array(3.0),
    "text": np.array(["a", "bb"]),
    "bytes": np.array([b"a", b"bb"]),
    "half": np.ones(3, np.float16),
    "truth": np.array([True, False]),
}
VALUES = {
    "containers": {"a": [1, (2.5, None)], "b": {1, 2}, "c": frozenset({"x"}), ("k", 1): bytearray(b"\xff")},
    "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
    "defaults": collections.defaultdict(list, {"a": [1]}),
    "scalars": [np.float32(0.5), np.int64(3), np.str_("x"), np.bool_(True), 1j, b"\xff"],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(name: str, protocol: int):
    found = load_pickle(pickle.dumps(ARRAYS[name], protocol), "x")
    assert type(found) is np.ndarray and found.dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(found, ARRAYS[name])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_values_come_back(name: str, protocol: int):
    found = load_pickle(pickle.dumps(VALUES[name], protocol), "x")
    assert found == VALUES[name]
    assert type(found) is not collections.defaultdict


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_objects_may_hold_containers(protocol: int):
    whole = np.array([["a", None], [{"k": np.ones(2)}, [1]]], dtype=object)
    found = load_pickle(pickle.dumps(whole, protocol), "x")
    assert found.shape == (2, 2) and found[0].tolist() == ["a", None] and found[1, 1] == [1]
    np.testing.assert_array_equal(found[1, 0]["k"], [1, 1])


@pytest.mark.parametrize("protocol", range(6))
def test_torch_tensors_come_back_as_arrays(protocol: int):
    base = torch.arange(12.0).reshape(3, 4)
    given = [base, base.t()[1:], torch.arange(3), base.bfloat16(), torch.nn.Parameter(base), torch.zeros(0, 4)]
    for tensor, found in zip(given, load_pickle(pickle.dumps(given, protocol), "x"), strict=True):
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, tensor.detach().float().numpy())


def test_names_of_numpy_1_and_python_2_are_understood():
    """What ``cPickle.dumps([np.array([1, 2], "<f4"), "caf\\xc3\\xa9"], 2)`` gives under Python 2 and NumPy 1."""
    bits = struct.pack("<2f", 1, 2)
    written = (
        b"\x80\x02]q\x01(cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
        b"(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U" + bytes([len(bits)]) + bits + b"tbU\x05caf\xc3\xa9e."
    )
    array, text = load_pickle(written, "x")
    np.testing.assert_array_equal(array, np.array([1, 2], np.float32))
    assert text.encode("latin1").decode() == "café"


def test_what_is_shared_stays_shared():
    row = np.ones(3)
    found = load_pickle(pickle.dumps([row, row, {"a": row}]), "x")
    assert found[0] is found[1] is found[2]["a"]
    loop: list = []
    loop.append(loop)
    found = load_pickle(pickle.dumps(loop), "x")
    assert found[0] is found


# --- what is refused


class Calls:
    def __init__(self, function, *arguments, state=None) -> None:
        self.reduced = (function, arguments, *([state] if state is not None else []))

    def __reduce__(self):
        return self.reduced


class Plain:
    pass


def shell(path: Path) -> str:
    return f"touch {path}"


def dotted(module: str, name: str) -> bytes:
    """A name that ``pickle`` would look up attribute by attribute, and call without arguments."""
    parts = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + parts + b"\x93)R."


@pytest.mark.parametrize("protocol", range(6))
def test_functions_are_refused_by_name_and_do_not_run(tmp_path: Path, protocol: int):
    made = tmp_path / "made-by-a-pickle"
    files = {
        rf"{os.system.__module__}\.system is not allowed": Calls(os.system, shell(made)),
        r"(builtins|__builtin__)\.eval is not allowed": Calls(eval, f"open({str(made)!r}, 'w')"),
        r"functools\.partial is not allowed": Calls(functools.partial, os.mkdir, str(made)),
        r"(builtins|__builtin__)\.getattr is not allowed": Calls(getattr, Calls(getattr, "", "join"), "__call__"),
        r"(builtins\.map|itertools\.imap) is not allowed": Calls(map, os.mkdir, [str(made)]),
        r"(pickle|_pickle|cPickle)\.loads is not allowed": Calls(pickle.loads, b"."),
        r"(numpy|numpy\.lib\._npyio_impl)\.load is not allowed": Calls(np.load, "x.npy"),
        r"torch\.serialization\.load is not allowed": Calls(torch.load, "x.pt"),
    }
    for message, value in files.items():
        path = tmp_path / "features.pkl"
        path.write_bytes(pickle.dumps({"train": [1, value]}, protocol))
        with pytest.raises(UnsafePickleError, match=message):
            read_pickle(path)
    assert not made.exists()
    (tmp_path / "trusted.pkl").write_bytes(pickle.dumps(Calls(os.system, shell(made)), protocol))
    with open(tmp_path / "trusted.pkl", "rb") as file:
        pickle.load(file)  # the same bytes do act when they are loaded without care
    assert made.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_objects_of_classes_are_refused(protocol: int):
    with pytest.raises(UnsafePickleError, match=r"test_unpickling\.Plain is not allowed|copy_reg\._reconstructor is"):
        load_pickle(pickle.dumps(Plain(), protocol), "x")
    with pytest.raises(UnsafePickleError, match="no pickle that can be read: NEWOBJ class argument must be a type"):
        load_pickle(b"\x80\x02c__builtin__\ndict\n)\x81.", "x")
    with pytest.raises(UnsafePickleError, match=r"posix\.system is not allowed"):
        load_pickle(b"(S'true'\niposix\nsystem\n.", "x")
    with pytest.raises(UnsafePickleError, match=r"posix\.system is not allowed"):
        load_pickle(b"(cposix\nsystem\nS'true'\no.", "x")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "list.__subclasses__"),
        ("numpy", "core.multiarray._reconstruct"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
        ("numpy.core.multiarray", "fromfile"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections.abc", "OrderedDict"),
        ("_codecs", "lookup"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    ],
)
def test_neighbours_of_allowed_names_are_refused(module: str, name: str):
    with pytest.raises(UnsafePickleError) as caught:
        load_pickle(dotted(module, name), "features.pkl")
    assert str(caught.value).startswith(f"features.pkl: {module}.{name} is not allowed in a feature file")


RECONSTRUCT = np._core.multiarray._reconstruct
ENCODED = np.dtype([("a", "f4")])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Calls(RECONSTRUCT, list, (0,), b"b"), "calling numpy._core.multiarray._reconstruct"),
        (Calls(RECONSTRUCT, np.ndarray, (10**9,), b"b"), "calling numpy._core.multiarray._reconstruct"),
        (Calls(np.ndarray, (10**12,)), "calling numpy.ndarray with 1 values"),
        (Calls(bytearray, 10**13), "calling builtins.bytearray"),
        (Calls(bytes, 10**13), "calling builtins.bytes"),
        (Calls(float, "9" * 99), "calling builtins.float"),
        (Calls(list, "abc"), "calling builtins.list"),
        (Calls(collections.defaultdict, 3), "calling collections.defaultdict"),
        (Calls(np.dtype, "V8"), "a numpy dtype 'V8' is not allowed"),
        (Calls(np.dtype, "M8[ns]"), "is not allowed"),
        (np.zeros(2, ENCODED), "a numpy dtype 'V4' is not allowed"),
        (Calls(np.dtype, "f4", state=(3, "<", None, ("a",), {}, 4, 1, 0)), "a numpy dtype with fields"),
        (Calls(np.dtype, "f4", state=(3, "!", None, None, None, 4, 1, 0)), "a numpy dtype with the state"),
        (Calls(collections.OrderedDict, state={"x": 1}), "no pickle that can be read|is not allowed"),
        (Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (9,), np.dtype("f4"), False, b"1234")), "needs 36 bytes"),
        (Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (-1,), np.dtype("f4"), False, b"")), "shape"),
        (Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), np.dtype("O"), False, b"12345678")), "objects"),
        (Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), np.dtype("O"), False, [np.dtype("f4")])), "dtype"),
        (
            Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), np.dtype("O"), False, [len])),
            "len is not allowed",
        ),
        (Calls(np._core.multiarray.scalar, np.dtype("O"), b"cos\nsystem\n(S'x'\ntR."), "made of bytes"),
        (Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), np.dtype("U1"), False, b"abcd")), "do not exist"),
        (Calls(np._core.multiarray.scalar, np.dtype("U1"), b"a\0\0\xc7"), "do not exist"),
        ([dict], "builtins.dict as a value"),
        ({"a": np.dtype("f4")}, "dtype as a value"),
    ],
    ids=lambda own: own if isinstance(own, str) else type(own).__name__,  # the same in every process
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_allowed_names_do_nothing_else(value, message: str, protocol: int):
    with pytest.raises(UnsafePickleError, match=message):
        load_pickle(pickle.dumps(value, protocol), "x")


def test_stand_ins_cannot_be_changed():
    """``BUILD`` on a function or class would set its attributes for the whole process."""
    for name in (b"ccollections\nOrderedDict\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n"):
        with pytest.raises(UnsafePickleError, match="setting the state of"):
            load_pickle(b"\x80\x02" + name + b"}U\x01xK\x01sb.", "x")
        with pytest.raises(UnsafePickleError, match="setting the state of"):
            load_pickle(b"\x80\x02" + name + b"N}U\x08__call__K\x01s\x86b.", "x")
    assert load_pickle(pickle.dumps(np.ones(2), 2), "x").tolist() == [1, 1]


def test_a_torch_storage_may_hold_weights_alone(tmp_path: Path):
    made = tmp_path / "made"
    inner = io.BytesIO()
    torch.save(Calls(os.mkdir, str(made)), inner, _use_new_zipfile_serialization=False)
    from torch.storage import _load_from_bytes

    with pytest.raises(UnsafePickleError, match="needs more than weights") as caught:
        load_pickle(pickle.dumps(Calls(_load_from_bytes, inner.getvalue())), "x")
    assert "weights_only" not in str(caught.value)
    assert not made.exists()
    storage = torch.ones(4)._typed_storage()
    from torch._utils import _rebuild_tensor_v2

    for offset, size, stride in [
        (0, (5,), (1,)),
        (2, (3,), (1,)),
        (0, (2, 3), (3, 1)),
        (0, (10**9,), (0,)),
        (-1, (1,), (1,)),
    ]:
        value = Calls(_rebuild_tensor_v2, storage, offset, size, stride, False, collections.OrderedDict())
        with pytest.raises(UnsafePickleError, match=r"storage is not allowed|shape"):
            load_pickle(pickle.dumps(value), "x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "memo index 2147483647 after"),
        (b"I1\np999999999\n.", "memo index 999999999 after"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\x00\x00K\x01.", "ends within a frame"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00x.", "no pickle that can be read"),
        (b"\x80\x02X\xff\xff\xff\x7fx.", "no pickle that can be read"),
        (b"\x80\x02Pname\n.", "PERSID is not allowed"),
        (b"\x80\x02K\x01Q.", "BINPERSID is not allowed"),
        (b"\x80\x02\x82\x01.", "EXT1 is not allowed"),
        (b"\x80\x05\x97.", "NEXT_BUFFER is not allowed"),
        (b"\x80\x02]q\x00", "no pickle that can be read"),
        (b"no pickle at all", "no pickle that can be read"),
        (b"\x80\x02" + b"]" * 3000 + b"a" * 2999 + b".", "containers within each other"),
        (b"\x80\x02" + b"]" + b"\x85" * 200000 + b".", "containers within each other"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_damaged_and_greedy_files_are_one_sentence(data: bytes, message: str):
    with pytest.raises(UnsafePickleError, match=message):
        load_pickle(data, "x")


def test_files_that_are_no_pickles_say_what_they_are(tmp_path: Path):
    for content, message in (
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04rest", "is an archive"),
    ):
        (tmp_path / "f.pkl").write_bytes(content)
        with pytest.raises(UnsafePickleError, match=message):
            read_pickle(tmp_path / "f.pkl")


def test_lists_that_share_their_parts_take_no_time():
    value: list = []
    for _ in range(50):
        value = [value, value]
    found = load_pickle(pickle.dumps(value), "x")
    assert found[0] is found[1] and sys.getsizeof(found) < 200


def test_a_file_is_read_as_its_bytes_are(tmp_path: Path):
    path = tmp_path / "f.pkl"
    path.write_bytes(pickle.dumps({"a": ARRAYS["float32"]}, 2))
    found = read_pickle(path)["a"]
    np.testing.assert_array_equal(found, ARRAYS["float32"])
    assert not found.flags.writeable


def test_damaged_bytes_never_raise_anything_else():
    draw = random.Random(0)
    values = [*ARRAYS.values(), *VALUES.values(), [torch.arange(4.0)]]
    files = [pickle.dumps(value, protocol) for value in values for protocol in range(6)]
    read = 0
    for _ in range(3000):
        data = bytearray(draw.choice(files))
        for _ in range(draw.choice((1, 2, 6))):
            at = draw.randrange(len(data))
            data[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
        with contextlib.suppress(UnsafePickleError):
            load_pickle(bytes(data), "x")
            read += 1
    assert read
