"""Runs that are killed, stopped, or out of disk go on and end bit by bit like the run that was left alone."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from mosear.callbacks.checkpoint_files import COMPLETE, complete, read_note
from mosear.callbacks.preemption import REQUEUE
from mosear.config.validation import ConfigError
from mosear.resolvers import register_resolvers
from mosear.runtime.checks import check_training
from tests.helpers.corpus import rendered_corpus
from tests.helpers.training_child import ROOT, TrainingRuns, interruption, random_interruption

LAST = 8
CORPUS = {"test_clips": 1, "train_clips": 16, "val_clips": 6, "workers": 1}
RECIPE = [
    "+experiment=mosear",  # experts, gate, a frozen teacher whose readings are kept
    "adapter.dropout=0.1",  # draws random numbers in every step
    *(f"data.prepare.{name}={value}" for name, value in CORPUS.items()),
    "data.batch_size=4",
    "data.eval_batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=1",
    "trainer.log_every_n_steps=1",
    "method.scale_clips=8",
    "keep_adapter=best",
    "zero_shot=false",
    "answering.readings=false",
    "report.examples=0",
    "callbacks.checkpoint.every_n_steps=3",
    "+trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "resume=auto",
]
TIMINGS = re.compile(r"train/(.*_per_second|data_wait_share|peak_memory_gb)")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return rendered_corpus(tmp_path_factory, **CORPUS)


@pytest.fixture(scope="module")
def start(data_dir):
    return TrainingRuns([*RECIPE, f"data_dir={data_dir}", "data.cache_dir=${run_dir}/cache"])


@pytest.fixture(scope="module")
def reference(start, tmp_path_factory):
    """A run that nobody interrupts."""
    run_dir = tmp_path_factory.mktemp("reference")
    assert start(run_dir) == 0, printed(run_dir)
    return run_dir


def printed(run_dir: Path) -> str:
    return (run_dir / "output.txt").read_text()


def flat(value, key=""):
    if isinstance(value, dict):
        return {k: v for name, child in value.items() for k, v in flat(child, f"{key}/{name}").items()}
    if isinstance(value, list | tuple):
        return {k: v for index, child in enumerate(value) for k, v in flat(child, f"{key}/{index}").items()}
    return {key: value}


def state(run_dir: Path, name: str) -> dict:
    found = flat(torch.load(complete(run_dir / "checkpoints")[-1] / name, weights_only=True))
    return {key: value for key, value in found.items() if key.split("/")[-1] not in ("waited", "seconds")}


def assert_same_end(run_dir: Path, reference: Path, step: int = LAST, processes: int = 1) -> None:
    """Everything that the run is made of: weights, optimiser, schedule, loops, callbacks, generators, teacher, log."""
    assert read_note(complete(run_dir / "checkpoints")[-1]).step == step
    for name in ("state.ckpt", *(f"rank-{rank}.pt" for rank in range(processes))):
        mine, theirs = state(run_dir, name), state(reference, name)
        assert mine.keys() == theirs.keys() and len(mine) > 100
        for key, value in mine.items():
            same = torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
            assert same, key
    for name in ("adapter/adapter_model.safetensors", "predictions.parquet"):
        assert (run_dir / name).read_bytes() == (reference / name).read_bytes(), name
    rows = []
    for path in (run_dir, reference):
        with (path / "csv" / "metrics.csv").open() as file:
            rows.append([{k: v for k, v in row.items() if not TIMINGS.match(k)} for row in csv.DictReader(file)])
    assert rows[0] == rows[1] and len(rows[0]) >= step


def test_killed_three_times_it_ends_like_the_run_that_was_not(start, reference, tmp_path):
    """In the first step, while a checkpoint is written, and between gradients and update, in a second epoch."""
    for step, where, at_least in ((0, "step", 0), (3, "write", 0), (5, "step", 4)):
        assert start(tmp_path, *interruption(step=step, where=where, delay=0.01)) == -9, printed(tmp_path)
        found = complete(tmp_path / "checkpoints")
        newest = read_note(found[-1]).step if found else 0
        assert at_least <= newest <= step and step - newest <= 3
    assert start(tmp_path) == 0, printed(tmp_path)
    assert_same_end(tmp_path, reference)
    assert len(complete(tmp_path / "checkpoints")) == 2
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(start, reference, tmp_path):
    rng = random.Random(0)
    kills, rounds = 0, 0
    while kills < 20:
        rounds += 1
        run_dir = tmp_path / str(rounds)
        for _ in range(6):
            code = start(run_dir, *random_interruption(rng, LAST))
            assert code in (0, -9), printed(run_dir)
            kills += code == -9
        assert start(run_dir) == 0, printed(run_dir)
        assert_same_end(run_dir, reference)
    assert rounds < 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        ["+trainer.val_check_interval=2", "callbacks.checkpoint.every_n_steps=1"],  # validation inside epochs
        ["trainer.accumulate_grad_batches=3", "callbacks.checkpoint.every_n_steps=1"],
        ["trainer.max_epochs=-1", "trainer.max_steps=7"],
        ["data.num_workers=2", "trainer.limit_train_batches=3", "method.teacher=adapted"],
    ],
    ids=["val_check_interval", "accumulation", "max_steps", "workers"],
)
def test_every_way_to_train_resumes_exactly(start, recipe, tmp_path):
    left_alone, run_dir = tmp_path / "reference", tmp_path / "run"
    assert start(left_alone, *recipe) == 0, printed(left_alone)
    last = read_note(complete(left_alone / "checkpoints")[-1]).step
    for step in range(1, last, 2):
        assert start(run_dir, *recipe, *interruption(step=step)) == -9, printed(run_dir)
    assert start(run_dir, *recipe) == 0, printed(run_dir)
    assert_same_end(run_dir, left_alone, last)


def test_asked_to_stop_it_saves_the_step_and_exits_with_the_code_for_requeueing(start, reference, tmp_path):
    assert start(tmp_path, *interruption(step=4, signum="SIGTERM")) == REQUEUE, printed(tmp_path)
    assert read_note(complete(tmp_path / "checkpoints")[-1]).step == 5
    assert start(tmp_path, *interruption(step=LAST, where="validation", signum="SIGUSR1")) == REQUEUE, printed(tmp_path)
    assert read_note(complete(tmp_path / "checkpoints")[-1]).step == 7  # before the last step ahead of the validation
    assert start(tmp_path, *interruption(step=LAST, where="test", signum="SIGTERM")) == REQUEUE, printed(tmp_path)
    assert not (tmp_path / "metrics.json").exists()
    newest = complete(tmp_path / "checkpoints")[-1]
    assert read_note(newest).finished
    written = (newest / COMPLETE).stat().st_mtime_ns
    assert start(tmp_path) == 0, printed(tmp_path)
    assert "finished training at step 8" in printed(tmp_path)
    assert (newest / COMPLETE).stat().st_mtime_ns == written, "a finished run must not train again"
    assert_same_end(tmp_path, reference)
    steps = [json.loads((path / "metrics.json").read_text())["run"]["steps"] for path in (tmp_path, reference)]
    assert steps == [LAST, LAST]


def test_full_disk_is_an_error_that_leaves_the_older_checkpoint(start, tmp_path):
    assert start(tmp_path, *interruption(step=5, where="disk_full")) == 1
    assert "The checkpoint of step 6 could not be written" in printed(tmp_path)
    assert "step-000004 is intact. Make room" in printed(tmp_path)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-000003", "step-000004"]


@pytest.fixture
def copy(reference, tmp_path):
    shutil.copytree(reference, tmp_path / "run")
    return tmp_path / "run"


def problems(data_dir: Path, run_dir: Path, *overrides: str) -> str:
    register_resolvers()
    common = [*RECIPE, f"data_dir={data_dir}", "data.cache_dir=${run_dir}/cache", f"run_dir={run_dir}", *overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=common)
    try:
        check_training(cfg)
    except ConfigError as error:
        return " ".join(str(error).split())
    return ""


def test_changed_settings_are_named_before_weights_are_loaded(reference, data_dir):
    found = problems(data_dir, reference, "tuning.learning_rate=0.5", "adapter.r=2", "trainer.max_epochs=9")
    for part in ("adapter.r: 4 -> 2", "tuning.learning_rate: 0.002 -> 0.5", "trainer.max_epochs: 2 -> 9"):
        assert part in found
    assert "callbacks.loss_guard.on_bad_loss: 'stop' -> 'skip'" in problems(
        data_dir, reference, "callbacks.loss_guard.on_bad_loss=skip"
    )


def test_what_training_does_not_depend_on_may_change(reference, data_dir, tmp_path):
    free = ("name=other", "data.num_workers=1", "zero_shot=true", "callbacks.gate=null", "logger=none")
    assert problems(data_dir, reference, *free, f"data.cache_dir={tmp_path}") == ""


def test_a_run_without_checkpoints_cannot_resume(data_dir, tmp_path):
    assert "writes no checkpoints" in problems(
        data_dir, tmp_path, "callbacks.checkpoint=null", "callbacks.preemption=null"
    )
    assert "callbacks.preemption" in problems(data_dir, tmp_path, "callbacks.checkpoint=null", "resume=null")


def test_nothing_to_resume_from_is_no_error_with_auto(data_dir, tmp_path):
    assert problems(data_dir, tmp_path) == ""


def test_another_run_s_checkpoint_is_refused(reference, data_dir, tmp_path):
    newest = complete(reference / "checkpoints")[-1]
    found = problems(data_dir, tmp_path, f"resume={newest}")
    assert "lies outside the run directory" in found and f"hydra.run.dir={reference}" in found


def test_a_torn_checkpoint_is_passed_over_and_refused_by_name(copy, data_dir):
    newest = complete(copy / "checkpoints")[-1]
    (newest / COMPLETE).unlink()
    assert problems(data_dir, copy) == ""  # auto takes the one before
    assert "no COMPLETE marker" in problems(data_dir, copy, f"resume={newest}")


def test_a_damaged_checkpoint_is_named(copy, data_dir):
    newest = complete(copy / "checkpoints")[-1]
    content = bytearray((newest / "state.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "state.ckpt").write_bytes(content)
    found = problems(data_dir, copy)
    assert "state.ckpt has another SHA-256" in found and "an older checkpoint is used" in found


@pytest.mark.parametrize(
    ("marker", "expected"),
    [("hello", "not the marker of a mosear checkpoint"), ('{"format": 0}', "format 0, and this version of mosear")],
)
def test_a_foreign_or_older_checkpoint_is_refused(copy, data_dir, marker, expected):
    (complete(copy / "checkpoints")[-1] / COMPLETE).write_text(marker)
    assert expected in problems(data_dir, copy)
    assert "is not a checkpoint directory" in problems(data_dir, copy, "resume=/no/such/place")
