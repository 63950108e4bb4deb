"""One W&B run per run directory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from mosear.files import written_atomically

RUN_ID_FILE = "wandb_run_id"
MEDIA = ("frames", "clip", "none")


class RunDirectoryWandbLogger(WandbLogger):
    """Lightning's logger with a run id that lives in the run directory: a job that is started again goes on there.

    Only the first process of a job opens the run, whatever the number of processes.

    Args:
        save_dir: the run directory.
        project: W&B project.
        entity: W&B team; ``None`` = the user's default.
        name: of the run, for people.
        group: runs that belong together.
        tags: of the run.
        offline: write to ``save_dir`` alone, for ``wandb sync``; so does the environment's ``WANDB_MODE=offline``.
        media: what is uploaded of each example clip: ``frames`` (a strip of frames), ``clip`` (the file with its
            sound) or ``none``. Recordings of people often may not leave the machine they are on: check the licence.
        artifacts: upload the adapter and the report.
        settings: further settings for ``wandb.init``.
    """

    def __init__(
        self,
        *,
        save_dir: str,
        project: str = "mosear",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        offline: bool = False,
        media: Literal["frames", "clip", "none"] = "frames",
        artifacts: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if media not in MEDIA:
            raise ValueError(f"media={media!r} must be one of {', '.join(MEDIA)}.")
        self.media, self.artifacts = media, artifacts
        super().__init__(
            name=name,
            save_dir=save_dir,
            offline=offline,
            id=run_id(save_dir) if getattr(rank_zero_only, "rank", 0) == 0 else None,
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            settings=dict(settings or {}),
        )
        self._wandb_init.pop("anonymous", None)  # Lightning passes it on, and W&B warns that it means nothing any more


def run_id(directory: str | os.PathLike[str]) -> str:
    """The id of the run that belongs to a directory: of ``WANDB_RUN_ID`` (sweep agents set it), the kept or a new one.

    It is on disk before W&B hears of it, so that a job killed at any moment finds it again.
    """
    path = Path(directory) / RUN_ID_FILE
    kept = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    chosen = os.environ.get("WANDB_RUN_ID") or kept or secrets.token_hex(4)
    if chosen != kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as temporary:
            temporary.write_text(chosen + "\n", encoding="utf-8")
    return chosen
