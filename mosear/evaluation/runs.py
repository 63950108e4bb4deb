"""The files of a finished run, read without torch.

::

    RUN/metrics.json  predictions.parquet  config.yaml  adapter/  .hydra/
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mosear.evaluation.predictions import PredictionRow, read_predictions

PREDICTIONS, METRICS, CONFIG, ADAPTER = "predictions.parquet", "metrics.json", "config.yaml", "adapter"
FUSION = "fusion.json"


def is_trained_adapter(directory: str | os.PathLike[str]) -> bool:
    """Whether PEFT finds an adapter in this directory."""
    return (Path(directory) / "adapter_config.json").is_file()


def is_trained(directory: str | os.PathLike[str]) -> bool:
    """Whether a run has left trained weights here: an adapter, or a fusion model."""
    return is_trained_adapter(directory) or (Path(directory) / FUSION).is_file()


class RunFiles:
    """What a run left in its directory. Files are read when they are asked for, and once.

    Args:
        directory: of the run.

    Raises:
        ValueError: by a property whose file is missing.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    @classmethod
    def of_adapter(cls, adapter: str | os.PathLike[str]) -> RunFiles:
        """The run that an adapter belongs to: ``RUN`` of ``RUN/adapter``, else the adapter's own directory."""
        path = Path(adapter)
        return cls(path.parent if path.name == ADAPTER else path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"

    @property
    def finished(self) -> bool:
        """Whether there are predictions and metrics."""
        return all((self.directory / name).is_file() for name in (PREDICTIONS, METRICS))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        content: dict[str, Any] = json.loads(self._file(METRICS).read_text(encoding="utf-8"))
        return content

    @cached_property
    def predictions(self) -> tuple[list[PredictionRow], list[str]]:
        """Rows of every model, and the label list."""
        return read_predictions(self._file(PREDICTIONS))

    @cached_property
    def config(self) -> DictConfig:
        """The config that the run was started with."""
        cfg = OmegaConf.load(self._file(CONFIG))
        if not isinstance(cfg, DictConfig):
            raise ValueError(f"{self.directory / CONFIG} is not the config of a run: it holds no mapping.")
        return cfg

    def _file(self, name: str) -> Path:
        path = self.directory / name
        if not path.is_file():
            raise ValueError(f"{self.directory} is not a finished run: it has no {name}. Give the directory of a run.")
        return path

    @cached_property
    def overrides(self) -> list[str]:
        """What the command line changed; empty where that is not recorded."""
        path = self.directory / ".hydra" / "overrides.yaml"
        return [str(entry) for entry in OmegaConf.load(path)] if path.is_file() else []

    @cached_property
    def started_in(self) -> Path:
        """The working directory that relative paths of the config start from; ours if it is not recorded."""
        path = self.directory / ".hydra" / "hydra.yaml"
        recorded = OmegaConf.select(OmegaConf.load(path), "hydra.runtime.cwd") if path.is_file() else None
        return Path(recorded or ".")

    @property
    def experiment(self) -> str:
        """Name of what was run; of the directory above where the metrics do not say it."""
        return str(self.metrics["run"].get("experiment", self.directory.parent.name))

    @property
    def adapter(self) -> str | None:
        """The adapter that was evaluated, as its path was given; ``None`` for the bare backbone and after training."""
        path = self.metrics["run"].get("adapter")
        return None if path in (None, "none") else str(path)

    @cached_property
    def training(self) -> RunFiles | None:
        """The run that trained the evaluated adapter, if its ``metrics.json`` is still beside the adapter."""
        if self.adapter is None:
            return None
        for path in (Path(self.adapter), self.started_in / self.adapter):
            run = RunFiles.of_adapter(path)
            if (run.directory / METRICS).is_file():
                return run
        return None

    @property
    def trained(self) -> tuple[str, int]:
        """Experiment and seed of the run that trained what answered: of this run, where it evaluated no adapter.

        Where the training run is gone, its directory has left a name and no seed.
        """
        if self.adapter is not None and self.training is None:
            return RunFiles.of_adapter(self.adapter).directory.name, 0
        run = self.training or self
        return run.experiment, int(run.metrics["seed"])

    @cached_property
    def manifest(self) -> Path | None:
        """The benchmark's manifest; ``None`` where the config does not say, or it is no longer there."""
        return next((path for path in self._places("benchmark.manifest") if path.is_file()), None)

    @cached_property
    def media_root(self) -> Path | None:
        """Where media paths start: ``data.root``, by default beside the manifest; ``None`` where it is not known."""
        places = self._places("data.root")
        beside = self.manifest.parent if self.manifest and not places else None
        return next((path for path in places if path.is_dir()), beside)

    def _places(self, key: str) -> list[Path]:
        """Where a relative path of the config may be: seen from where the run was started, and from here."""
        known = (self.directory / CONFIG).is_file()
        value = OmegaConf.select(self.config, key) if known else None
        return [self.started_in / value, Path(value)] if value else []
