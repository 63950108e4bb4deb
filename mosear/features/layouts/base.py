"""What a layout is, and what several of them need."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosear.features.items import Reading


class LayoutError(ValueError):
    """The source is not in this layout; the message says what was expected and what is there."""


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """For layouts without options of their own."""


@dataclass(frozen=True)
class Layout:
    """A way in which features are published.

    Attributes:
        name: what the command line calls it.
        title: one line about it.
        tree: the expected files, as shown to users.
        evidence: where the layout comes from, and what is not verified.
        read: reads a source; the second argument holds the options of ``add_arguments``.
        add_arguments: declares them.
    """

    name: str
    title: str
    tree: str
    evidence: str
    read: Callable[[Path, argparse.Namespace], Reading]
    add_arguments: Callable[[argparse.ArgumentParser], None] = no_arguments


def held_out(names: Iterable[str], share: float) -> set[str]:
    """The share of names with the lowest hashes, at least one: the same ones on every machine.

    Raises:
        LayoutError: The share is not between 0 and 1, or nothing would be left.
    """
    ordered = sorted(set(names), key=lambda name: (hashlib.sha256(name.encode()).hexdigest(), name))
    if not 0 < share < 1:
        raise LayoutError(f"--validation is a share between 0 and 1, got {share}")
    count = max(1, round(share * len(ordered)))
    if count >= len(ordered):
        raise LayoutError(f"--validation {share} of {len(ordered)} leaves nothing to train on")
    return set(ordered[:count])


def read_array(path: Path) -> np.ndarray:
    """The array in a ``.npy`` file of numbers; one with a pickle in it is refused.

    Raises:
        LayoutError: It is no such file.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        raise LayoutError(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise LayoutError(f"{path} is no .npy file of numbers: {error}") from None


def required(found: Any, keys: Sequence[str], where: str) -> Mapping[str, Any]:
    """The mapping, if it is one with these keys.

    Raises:
        LayoutError: It is not; the message shows the keys.
    """
    if not isinstance(found, Mapping):
        raise LayoutError(f"{where}: expected a dict with {', '.join(keys)}, found {type(found).__name__}")
    if lacking := [key for key in keys if key not in found]:
        shown = ", ".join(map(str, list(found)[:20])) or "nothing"
        raise LayoutError(f"{where}: expected {', '.join(keys)}; {', '.join(lacking)} not found. There are {shown}")
    return found
