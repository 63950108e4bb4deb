"""What of a process's state no Lightning checkpoint holds: random generators, and the CSV log."""

from __future__ import annotations

import csv
import hashlib
import io
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.loggers import CSVLogger

from mosear.callbacks.checkpoint_files import CSV_LOG


def random_state() -> dict[str, Any]:
    """The global generators of this process (Python, NumPy, torch, its accelerator), as ``weights_only`` can read."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put :func:`random_state` back."""
    kind, keys, position, has_gauss, gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save_tensors(content: Any, path: Path) -> None:
    """``torch.save`` whose failures are those of the file system (its own writer hides them)."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


class StagedIO(TorchCheckpointIO):
    """Writes where it is told: Lightning's own goes through the system's temporary directory, which may be small."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the file."""
        save_tensors(checkpoint, Path(path))


def data_fingerprint(trainer: Trainer) -> str:
    """Of ids and labels of the training clips, in order; empty without a manifest."""
    manifest = getattr(getattr(trainer, "datamodule", None), "manifest", None)
    if manifest is None:
        return ""
    own = hashlib.sha256()
    for clip in manifest("train"):
        own.update(f"{clip.id}\t{clip.label}\n".encode())
    return own.hexdigest()


def keep_csv_log(trainer: Trainer, directory: Path) -> None:
    """Copy the CSV log, up to the last row, into a checkpoint."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger.save()
            path = Path(logger.experiment.metrics_file_path)
            if path.is_file():
                shutil.copyfile(path, directory / CSV_LOG)


def restore_csv_log(trainer: Trainer, directory: Path) -> None:
    """Let the CSV log say what it said at the checkpoint: rows of steps that will be redone are gone."""
    path = directory / CSV_LOG
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = [dict(row) for row in csv.DictReader(file)]
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            writer = logger.experiment
            Path(writer.metrics_file_path).unlink(missing_ok=True)
            writer.metrics, writer.metrics_keys = rows, []
            writer.save()
