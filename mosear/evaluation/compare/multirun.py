"""Hydra callback: the jobs of a multirun are compared when the last one has ended."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class CompareJobs(Callback):
    """Writes ``comparison.html`` into the multirun's directory; what keeps it from that is logged and harms no job.

    Args:
        clips: clips to put into the page.
    """

    def __init__(self, clips: int = 500) -> None:
        self.clips = clips

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra in the process that started the jobs."""
        from mosear.evaluation.compare import compare

        directory = Path(config.hydra.sweep.dir)
        page = directory / "comparison.html"
        try:
            compare([directory], page, clips=self.clips)
        except ValueError as error:
            log.warning("No comparison of the jobs in %s: %s", directory, error)
        else:
            print(f"Comparison: {page}")
