"""A few completions of a run, for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mosear.backbones.backbone import OmniBackbone
from mosear.data.clip import Clip
from mosear.methods.grpo.experience import Group
from mosear.methods.grpo.rewards import Rewards
from mosear.methods.grpo.shown import LONGEST, MOST_STEPS, PER_STEP, Shown
from mosear.runtime.results import write_table
from tests.methods.grpo.test_grpo_method import batch_of, share_of_even, system_of, with_lora


def group(texts: Sequence[str]) -> Group:
    rewards = Rewards({"long": lambda completions, **_: [float(len(t)) if t else None for t in completions]}, {})
    ids = torch.zeros(len(texts), 1, dtype=torch.long)
    clip = Clip(id="a", text="x", label="sad")
    return Group(clip, ids, None, list(texts), ["sad", None, None, None, None][: len(texts)], rewards(texts, {}))


def test_rows_say_what_was_written_and_what_it_was_worth() -> None:
    shown = Shown()
    new = shown.add(3, group(["abc", "", "x" * (LONGEST + 1), "d", "e"]))
    assert shown.add(3, group(["of another micro-batch"])) == []
    assert new == shown.rows and len(new) == PER_STEP
    assert new[0] == {
        "step": 3, "clip": "a", "label": "sad", "read": "sad", "reward": 3.0, "reward/long": 3.0, "completion": "abc",
    }  # fmt: skip
    assert new[1]["read"] is None and new[1]["reward"] is None, "no reward applies"
    assert new[2]["completion"] == "x" * LONGEST + "..."
    (table,) = shown.tables()
    assert list(table.columns) == ["step", "clip", "label", "read", "reward", "reward/long", "completion"]
    assert table.rows[0] == [3, "a", "sad", "sad", 3.0, 3.0, "abc"]
    assert Shown().tables() == []


def test_a_long_run_keeps_steps_evenly_and_a_resumed_one_the_same() -> None:
    whole, first = Shown(), Shown()
    for step in range(5 * MOST_STEPS):
        if step == 3 * MOST_STEPS + 1:
            first = Shown(torch.load(saved(first.state_dict()), weights_only=True))
        for own in (whole, first):
            own.add(step, group(["a"]))
    steps = [row["step"] for row in whole.rows]
    assert len(steps) <= MOST_STEPS and steps == list(range(0, 5 * MOST_STEPS, whole.every)) and whole.every == 8
    assert first.rows == whole.rows


def saved(state: dict[str, Any]) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_a_step_shows_its_own_completions(qwen25: OmniBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    own, model = with_lora(qwen25)
    system, method = system_of(own, model, beta=0.0)
    given: list[tuple[Any, ...]] = []

    class Logger:
        """As Lightning's W&B logger."""

        def log_table(self, *arguments: Any) -> None:
            given.append(arguments)

    monkeypatch.setattr(type(system), "own_loggers", [Logger(), object()])
    data = batch_of(own)
    method.loss(data, 0)
    method.loss(data, 1)
    (kept, _) = method._kept
    tokenizer = own.processor.tokenizer
    lengths = kept.mask[0].sum(-1).tolist()
    ids = [row[:n] for row, n in zip(kept.ids[0].tolist(), lengths, strict=True)]
    assert [row["completion"] for row in method.shown.rows] == tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [row["reward"] for row in method.shown.rows] == pytest.approx(
        share_of_even([], completion_ids=ids), abs=1e-5
    )
    (table,) = system.tables() if system.method is method else method.tables()
    assert given == [("completions", list(table.columns), [list(row) for row in table.rows])]
    assert method.state_dict()["grpo_shown"]["rows"] == method.shown.rows


def test_a_table_is_written_as_csv(tmp_path: Path) -> None:
    shown = Shown()
    shown.add(0, group(['<think>"a",\nb</think>', "ü"]))
    write_table(shown.tables()[0], tmp_path / "completions.csv")
    with (tmp_path / "completions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["completion"] for row in rows] == ['<think>"a",\nb</think>', "ü"]
    assert rows[0]["reward/long"] == "21.0"
