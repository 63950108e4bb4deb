"""Reads label archives that hold pickles, without running what a pickle may contain."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mosear.data.sources.base import LayoutError
from mosear.data.unpickling import load_pickle


def read_label_archive(path: Path, keys: Sequence[str] = ()) -> dict[str, dict[str, dict[str, Any]]]:
    """The corpora of a MERBench label file: key -> clip name -> ``{"emo": str, "val": float}``; of all keys by default.

    Such a file is an ``.npz`` whose arrays are 0-dimensional and hold one pickled dict each. Only numbers, text and
    containers are unpickled; a file that asks for anything else is refused.

    Raises:
        LayoutError: A key is missing, or the file holds something else.
    """
    corpora = {}
    try:
        with zipfile.ZipFile(path) as archive:
            held = {name.removesuffix(".npy") for name in archive.namelist()}
            if set(keys) - held:
                raise LayoutError(f"{path}: expected {', '.join(keys)}, found {', '.join(sorted(held))}")
            for key in keys or sorted(held):
                with archive.open(f"{key}.npy") as file:
                    corpora[key] = _read_object(file)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, LayoutError):
            raise
        raise LayoutError(f"{path} is no label file that can be read safely: {error}") from None
    for key, corpus in corpora.items():
        if not isinstance(corpus, dict) or not all(isinstance(entry, dict) for entry in corpus.values()):
            raise LayoutError(f"{path}: {key} is no dict of clip names to labels")
    return corpora


def _read_object(file: IO[bytes]) -> Any:
    data = io.BytesIO(file.read())
    version = np.lib.format.read_magic(data)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(data)
    if shape != () or not dtype.hasobject:
        raise ValueError(f"an array of {dtype} with shape {shape} instead of one pickled dict")
    array = load_pickle(data.read(), "its pickle")
    return array.item() if isinstance(array, np.ndarray) else array
