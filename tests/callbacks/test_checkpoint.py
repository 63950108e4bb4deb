"""Checkpoint directories, generators, and who may resume from what."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mosear.callbacks import ResumableCheckpoint
from mosear.callbacks import checkpoint_files as files
from mosear.callbacks.checkpoint_files import COMPLETE, CheckpointError
from mosear.callbacks.checkpoint_state import random_state, restore_random_state
from tests.helpers.toy_tuner import NoisyTuner, ToyData, ToyTuner, clip_batch, fit

ABOUT = {"world_size": 1, "finished": False, "settings": {"seed": 0}, "data": "x", "libraries": {"torch": "2"}}


def written(root, step):
    staging = files.begin(root, step)
    (staging / "state.ckpt").mkdir()
    (staging / "state.ckpt" / "shard-0.pt").write_bytes(b"abc" * step)
    (staging / "rank-0.pt").write_bytes(b"rank")
    return files.commit(staging, step=step, **ABOUT)


def test_a_checkpoint_appears_whole_and_verifies(tmp_path):
    directory = written(tmp_path, 7)
    note = files.read_note(directory)
    assert (directory.name, note.step, note.settings) == ("step-000007", 7, {"seed": 0})
    assert sorted(note.files) == ["rank-0.pt", "state.ckpt/shard-0.pt"]
    files.verify(directory, note)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000007"]


def test_only_complete_ones_count_and_the_newest_stay(tmp_path):
    for step in (2, 10, 1_000_000, 30):
        written(tmp_path, step)
    files.begin(tmp_path, 40)
    (tmp_path / "step-000050").mkdir()
    (tmp_path / "step-last").mkdir()
    assert [path.name for path in files.complete(tmp_path)] == [
        "step-000002", "step-000010", "step-000030", "step-1000000",
    ]  # fmt: skip
    files.prune(tmp_path, 2)
    assert [path.name for path in files.complete(tmp_path)] == ["step-000030", "step-1000000"]
    assert files.complete(tmp_path / "nowhere") == []


def test_an_interrupted_deletion_is_swept_away(tmp_path):
    for step in (1, 2, 3):
        written(tmp_path, step)
    (tmp_path / "step-000001").rename(tmp_path / f"{files.DELETED}step-000001")  # as it is interrupted now
    (tmp_path / "step-000002" / COMPLETE).unlink()  # as earlier versions were
    others = tmp_path / "step-000004"
    others.mkdir()
    (others / "pytorch_model.bin").touch()  # of another program
    (tmp_path / "step-last").mkdir()
    files.begin(tmp_path, 5)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".tmp-step-000005", "step-000003", "step-000004", "step-last"]


def test_a_deletion_leaves_nothing(tmp_path):
    directory = written(tmp_path, 1)
    files.remove(directory)
    files.remove(directory)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_is_swept_away_and_an_older_twin_replaced(tmp_path):
    written(tmp_path, 3)
    staging = files.begin(tmp_path, 3)
    (staging / "torn").touch()
    assert files.begin(tmp_path, 3) == staging and not list(staging.iterdir())
    (staging / "new").touch()
    assert sorted(files.read_note(files.commit(staging, step=3, **ABOUT)).files) == ["new"]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"longer"), "has 6 bytes instead of 4"),
        (lambda path: path.write_bytes(b"knar"), "another SHA-256"),
    ],
)
def test_damage_is_named(tmp_path, damage, expected):
    directory = written(tmp_path, 1)
    damage(directory / "rank-0.pt")
    with pytest.raises(CheckpointError, match=expected):
        files.verify(directory, files.read_note(directory))


def test_generators_go_on_where_they_were(tmp_path):
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    np.random.normal()  # leaves half a pair behind
    torch.save(random_state(), tmp_path / "rng.pt")

    def draw():
        return [random.random(), *np.random.normal(size=3), np.random.randint(1000), *torch.rand(3).tolist()]

    drawn = draw()
    assert draw() != drawn
    restore_random_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == drawn


def checkpointed(root, **options):
    callback = ResumableCheckpoint(str(root / "checkpoints"), **{"every_n_steps": 2, "keep": 9, **options})
    callback.on_run_start({"seed": 0}, None)
    return callback


BATCHES = [clip_batch(f"a{index}") for index in range(5)]


def test_when_checkpoints_are_written(tmp_path):
    trainer = fit(ToyTuner(), BATCHES, tmp_path, checkpointed(tmp_path), max_epochs=2)
    found = {files.read_note(path).step: files.read_note(path).finished for path in trainer_checkpoints(tmp_path)}
    assert trainer.global_step == 10
    # Every second step, and step 5, where an epoch starts.
    assert found == {2: False, 4: False, 5: False, 6: False, 8: False, 10: True}


def trainer_checkpoints(root):
    return files.complete(root / "checkpoints")


def test_accumulated_gradients_are_never_cut(tmp_path):
    fit(ToyTuner(), BATCHES, tmp_path, checkpointed(tmp_path, every_n_steps=1), accumulate_grad_batches=2)
    positions = [
        torch.load(path / "rank-0.pt", weights_only=True)["position"]["batch"] for path in trainer_checkpoints(tmp_path)
    ]
    assert positions[:-1] == [2, 4]


def tensors(value, key=""):
    if isinstance(value, dict):
        return {k: v for name, child in value.items() for k, v in tensors(child, f"{key}/{name}").items()}
    if isinstance(value, list | tuple):
        return {k: v for index, child in enumerate(value) for k, v in tensors(child, f"{key}/{index}").items()}
    return {key: value.tolist() if isinstance(value, torch.Tensor) else value}


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "check_val_every_n_epoch": 2},
        {"max_epochs": 2, "val_check_interval": 2},
        {"max_epochs": 3, "accumulate_grad_batches": 2},
        {"max_epochs": -1, "max_steps": 12},
        {"max_epochs": 2, "limit_train_batches": 3, "val_check_interval": 3, "check_val_every_n_epoch": None},
    ],
    ids=["epochs", "rare validation", "validation inside epochs", "accumulation", "max_steps", "validation by steps"],
)
def test_from_every_step_a_resumed_run_ends_the_same(tmp_path, options):
    """Weights, optimiser, schedule, Lightning's loops and generators, from each checkpoint of a run."""

    def run(root, resumed=None):
        torch.manual_seed(7 if resumed is None else 8)
        callback = checkpointed(root, every_n_steps=1, keep=99)
        extra = {}
        if resumed is not None:
            callback.on_run_start({"seed": 0}, (resumed, files.read_note(resumed)))
            extra["ckpt_path"] = str(resumed / files.STATE)
        fit(NoisyTuner(), ToyData(), root, callback, **options, **extra)
        newest = trainer_checkpoints(root)[-1]
        return {
            name: tensors(torch.load(newest / name, weights_only=True)) for name in (files.STATE, files.rank_file(0))
        }

    expected = run(tmp_path / "whole")
    checkpoints = trainer_checkpoints(tmp_path / "whole")
    assert len(checkpoints) >= 6
    for checkpoint in checkpoints[:-1]:
        found = run(tmp_path / checkpoint.name, checkpoint)
        for name, content in expected.items():
            different = [key for key in content.keys() | found[name].keys() if content.get(key) != found[name].get(key)]
            assert not different, (checkpoint.name, name, different)


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"world_size": 2}, r"written by 2 process\(es\), and this run has 1"), ({"data": "?"}, "other clips than")],
)
def test_other_processes_or_clips_are_refused(tmp_path, change, expected):
    fit(ToyTuner(), BATCHES, tmp_path, checkpointed(tmp_path))
    directory = trainer_checkpoints(tmp_path)[0]
    callback = checkpointed(tmp_path)
    callback.on_run_start({}, (directory, replace(files.read_note(directory), **change)))
    with pytest.raises(CheckpointError, match=expected):
        fit(ToyTuner(), BATCHES, tmp_path, callback, ckpt_path=str(directory / files.STATE))


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(CheckpointError, match=r"of step 2 could not be written to .* There is no older one"):
        fit(ToyTuner(), BATCHES, tmp_path, checkpointed(tmp_path))


def test_older_markers_are_refused(tmp_path):
    directory = written(tmp_path, 1)
    note = json.loads((directory / COMPLETE).read_text())
    (directory / COMPLETE).write_text(json.dumps({**note, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99, and this version of mosear reads format 1"):
        files.read_note(directory)
    shutil.rmtree(directory)
    with pytest.raises(CheckpointError, match="is not a checkpoint directory"):
        files.read_note(directory)


def test_settings_are_checked(tmp_path):
    with pytest.raises(ValueError, match="every_n_steps=0 and keep=2 must be at least 1"):
        ResumableCheckpoint(str(tmp_path), every_n_steps=0)
