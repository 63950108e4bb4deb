"""Hydra callback: a job of a multirun that fails keeps no other from running, and is not forgotten at the end."""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mosear.runtime.told_errors import JobFailed
from mosear.torchrun import MISTAKE

IN_THIS_PROCESS = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class FailedJobs(Callback):
    """Lists the jobs that ended with a sentence of ours, after the last one, and exits with status 2.

    Jobs that another launcher starts elsewhere fail in its own way.
    """

    def __init__(self) -> None:
        self.failed: list[str] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note a job that failed, and let the sweep go on."""
        error = job_return._return_value
        if not isinstance(error, JobFailed) or config.hydra.launcher.get("_target_") != IN_THIS_PROCESS:
            return
        self.failed.append(f"#{config.hydra.job.num} ({config.hydra.job.override_dirname}): {error}")
        job_return.status, job_return.return_value = JobStatus.COMPLETED, None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say which failed."""
        if self.failed:
            print(f"{len(self.failed)} job(s) of this multirun failed:", *self.failed, sep="\n", file=sys.stderr)
            sys.exit(MISTAKE)
