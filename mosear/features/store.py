"""A directory of features: a manifest and a safetensors file per split, and one file that says what they are.

::

    features.json        layout, dimensions, clips and lengths by split, label names, source files with their SHA-256
    train.parquet        the manifest; its columns video and audio name train.safetensors where a clip has the modality
    train.safetensors    "{row}/{text|audio|video}": float32 [T, D], true length, no padding; absent: no key
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mosear.data.clip import Clip
from mosear.data.manifest import load_manifest

if TYPE_CHECKING:
    from mosear.data.manifest import Manifest

FORMAT = 1
FILE = "features.json"
SPLITS = ("train", "val", "test")
MODALITIES = ("text", "audio", "video")
"""In the order in which tables list them."""


class FeatureStore:
    """A directory of features, opened when first read. Several processes and threads may share one.

    Args:
        directory: as ``mosear features import`` writes it.

    Raises:
        ValueError: There is no such directory, or it holds something else.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.about = read_about(self.directory)
        self._manifests: dict[str, Manifest] = {}
        self._files = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["directory"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"FeatureStore({self.directory}, {self.dimensions})"

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(split for split in SPLITS if split in self.about["splits"])

    @property
    def dimensions(self) -> dict[str, int]:
        """Size of a step by modality."""
        return dict(self.about["modalities"])

    @property
    def labels(self) -> list[str]:
        """Of the column ``label``: the names that the import was given, in their order, or else those that occur."""
        return list(self.about["labels"])

    @property
    def label_sets(self) -> list[str]:
        """The names that occur in the column ``labels``, sorted."""
        return list(self.about["label_sets"])

    def manifest(self, split: str) -> Manifest:
        """The clips of a split as a checked manifest.

        Raises:
            ValueError: There is no such split, or its manifest is damaged.
        """
        if split not in self.splits:
            raise ValueError(f"{self.directory} has no split {split!r}; it has {', '.join(self.splits)}")
        if split not in self._manifests:
            manifest = load_manifest(self.directory / f"{split}.parquet")
            expected = self.about["splits"][split]["clips"]
            if len(manifest) != expected:
                raise ValueError(f"{manifest.path} has {len(manifest):,} clips, not {expected:,}; import it again")
            self._manifests[split] = manifest
        return self._manifests[split]

    def clips(self, split: str) -> list[Clip]:
        """The clips of a split; a clip's place is the index that :meth:`features` takes."""
        return list(self.manifest(split))

    def features(self, split: str, index: int) -> dict[str, np.ndarray]:
        """float32 ``[T, D]`` by modality of one clip; an absent modality has no key."""
        file, keys = self._opened(split)
        if not 0 <= index < self.about["splits"][split]["clips"]:
            raise IndexError(f"{self.directory}: {split} has no clip {index}")
        return {name: file.get_tensor(f"{index}/{name}") for name in self.dimensions if f"{index}/{name}" in keys}

    def _opened(self, split: str) -> tuple[Any, frozenset[str]]:
        opened = self._files.__dict__.setdefault("opened", {})
        if split not in opened:
            if split not in self.splits:
                raise ValueError(f"{self.directory} has no split {split!r}; it has {', '.join(self.splits)}")
            path = self.directory / f"{split}.safetensors"
            try:
                file = safe_open(path, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{path} cannot be read ({error}); import the features again") from None
            opened[split] = file, frozenset(file.keys())
        found: tuple[Any, frozenset[str]] = opened[split]
        return found


def read_about(directory: Path) -> dict[str, Any]:
    """The content of ``features.json``.

    Raises:
        ValueError: It is not there, or not what this version writes.
    """
    path = directory / FILE
    if not path.is_file():
        raise ValueError(f"{directory} holds no features: there is no {FILE}. `mosear features import` makes one")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); import the features again") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise ValueError(f"{path} has the format {found!r}, this version reads {FORMAT}; import the features again")
    return about
