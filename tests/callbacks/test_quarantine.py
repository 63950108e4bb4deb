"""What the run says about clips that it could not use, or not in full."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from mosear.callbacks.quarantine import QuarantineLog
from mosear.data.clip import Clip
from mosear.data.dataset import ClipBatch


def test_clips_that_were_cut_are_counted_once_per_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unused: Any = None
    log = QuarantineLog(str(tmp_path / "quarantine.jsonl"))
    clips = [Clip(id=name, text="Oh.", split="test") for name in "abc"]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # a run tests before and after training
            for batch in (clips[:2], clips[2:]):
                log.on_test_batch_start(unused, unused, ClipBatch(None, cut=[(clip, 30.0) for clip in batch]), 0)
            log.teardown(unused, unused, "test")
        log.on_train_batch_start(
            unused, unused, ClipBatch(None, cut=[(Clip(id="t", text="Oh.", split="train"), 30.0)]), 0
        )
        log.teardown(unused, unused, "fit")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("3 test clip(s) are longer than data.budget.max_seconds=30: what comes later is not used")
    assert told[1].startswith("1 train clip(s)")
    assert not log.path.exists(), "they are no bad clips"


def test_the_report_links_the_list_once_there_is_one(tmp_path):
    log = QuarantineLog(str(tmp_path / "quarantine.jsonl"))
    assert log.files() == {}
    (tmp_path / "quarantine.jsonl").touch()
    assert list(log.files().values()) == [tmp_path / "quarantine.jsonl"]
