"""``features=published``: features that others extracted, as ``mosear features import`` has stored them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mosear.data.clip import Clip
from mosear.data.manifest import load_manifest
from mosear.data.rows import ManifestError
from mosear.features.store import FILE, FeatureStore
from mosear.fusion.source import FeatureTable, usable
from mosear.problems import Problem


class Published:
    """Features of a directory, whose clips the manifests of ``data`` choose by id.

    Args:
        cfg: of the run: ``data``.
        accept: what keeps a clip from being used by the task.
        root: what ``mosear features import`` wrote.
        max_gb: a split whose padded features need at most so much is kept in memory.
    """

    def __init__(
        self, cfg: DictConfig, accept: Callable[[Clip], str | None], *, root: str, max_gb: float = 2.0
    ) -> None:
        self.cfg, self.accept, self.max_bytes = cfg, accept, int(max_gb * 2**30)
        self.store = FeatureStore(root)
        self._tables: dict[str, FeatureTable] = {}
        self._places = {
            clip.id: (split, index) for split in self.store.splits for index, clip in enumerate(self.store.clips(split))
        }

    @staticmethod
    def problems(cfg: DictConfig) -> Iterator[Problem]:
        """The directory is there."""
        if not (Path(cfg.features.root) / FILE).is_file():
            yield Problem(
                "features.root", cfg.features.root, f"there is no {FILE} in it",
                "Make the directory with `mosear features import LAYOUT --source ... --out DIR`.",
            )  # fmt: skip

    @staticmethod
    def planned_dimensions(cfg: DictConfig) -> Mapping[str, int]:
        """Widths, from the description of the directory."""
        return FeatureStore(cfg.features.root).dimensions

    @property
    def dimensions(self) -> Mapping[str, int]:
        """As stored."""
        return self.store.dimensions

    def table(self, split: str) -> FeatureTable:
        """The clips of a manifest of ``data``."""
        if split not in self._tables:
            subset = self.cfg.data.get("val_subset") if split == "val" else None
            if self.cfg.data.get(split) is None:
                told = f"No {split} manifest: set data.{split}, such as {self.store.directory}/{split}.parquet."
                raise ValueError(told)
            manifest = load_manifest(self.cfg.data[split], root=self.cfg.data.get("root"), subset=subset)
            usable(manifest, self.accept, split)
            clips = list(manifest)
            if unknown := [clip.id for clip in clips if clip.id not in self._places]:
                told = (
                    f"{len(unknown)} of {len(clips)} clips have no features in {self.store.directory}, e.g. "
                    f"{unknown[0]!r}; ids must be those of the import"
                )
                raise ManifestError(str(manifest.path), [told])
            self._tables[split] = FeatureTable(
                clips,
                self.dimensions,
                lambda row: self.store.features(*self._places[clips[row].id]),
                max_bytes=self.max_bytes,
            )
        return self._tables[split]

    def media(self, clip: Clip) -> tuple[Path | None, Path | str | None]:
        """None: features are all there is."""
        return None, None

    def about(self) -> Mapping[str, Any]:
        """Layout and directory."""
        return {"features": f"{self.store.about.get('layout', 'published')} in {self.store.directory}"}
