"""Lists every clip that could not be used, and counts those of which only the beginning was."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from mosear.callbacks.base import RunCallback
from mosear.data.dataset import ClipBatch
from mosear.files import written_atomically

log = logging.getLogger(__name__)


class QuarantineLog(RunCallback):
    """Appends each bad clip once to a JSONL file: id, split, cause, message. Warns once per split about clips cut.

    Args:
        path: the file; it appears with the first bad clip.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.seen: set[tuple[str, str]] = set()
        self.cut: dict[str, set[str]] = {}
        self.told: set[str] = set()
        self.seconds = 0.0  # of a clip that are used

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A resumed run goes on with its list."""
        if not self.path.is_file():
            return
        whole, _, torn = self.path.read_text(encoding="utf-8").rpartition("\n")
        if torn:  # the process died while it wrote this line
            with written_atomically(self.path) as temporary:
                temporary.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
        self.seen |= {(row["split"], row["id"]) for row in map(json.loads, whole.splitlines())}

    def files(self) -> Mapping[str, Path]:
        """The list, if there is one."""
        return {"clips that could not be used, with the reason": self.path} if self.path.is_file() else {}

    def record(self, batch: ClipBatch) -> None:
        """Write the bad clips of a batch that are not listed yet, and note those that the budget cut."""
        for clip, seconds in batch.cut:
            self.cut.setdefault(clip.split, set()).add(clip.id)
            self.seconds = seconds
        for bad in batch.bad:
            if (key := (bad.clip.split, bad.clip.id)) in self.seen:
                continue
            self.seen.add(key)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            row = {"id": bad.clip.id, "split": bad.clip.split, "cause": bad.cause, "message": bad.message}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            log.warning("Quarantined clip %s (%s): %s", bad.clip.id, bad.clip.split, bad.message)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say how many clips were cut: for each split once, since it is tested more than once."""
        for split in sorted(self.cut.keys() - self.told):
            self.told.add(split)
            log.warning(
                "%d %s clip(s) are longer than data.budget.max_seconds=%g: what comes later is not used. Raise it, or "
                "cut the files to the part that matters.",
                len(self.cut[split]),
                split,
                self.seconds,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Training."""
        self.record(batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Validation."""
        self.record(batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Test."""
        self.record(batch)
