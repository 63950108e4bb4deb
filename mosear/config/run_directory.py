"""Hydra callback: whether the run directory can be written to, before Hydra itself would trip over it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mosear.files import written_atomically
from mosear.torchrun import end_with, launched_rank


class RunDirectoryCheck(Callback):
    """Ends the program with a sentence if the directory of the run, or of the jobs of a multirun, cannot be used."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra before it creates the directory."""
        refuse_unwritable(config.hydra.run.dir, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """The same for the directory that holds those of the jobs."""
        refuse_unwritable(config.hydra.sweep.dir, "hydra.sweep.dir")


def refuse_unwritable(directory: str | os.PathLike[str], key: str) -> None:
    """Create a directory and a file in it.

    Args:
        directory: that everything is written to.
        key: of the config that names it.

    Raises:
        SystemExit: with what the system says.
    """
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with written_atomically(path / f"writable.{launched_rank()}") as temporary:
            temporary.write_text("yes", encoding="utf-8")
        (path / f"writable.{launched_rank()}").unlink()
    except OSError as error:
        end_with(
            f"the run directory {path.absolute()} cannot be written to: {error.strerror or error}. Give another one "
            f"with {key}=DIR."
        )
