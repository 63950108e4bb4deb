"""``debug=fast`` means two steps beside every experiment, on a corpus that takes seconds to render."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mosear.planning.dry_run import step_counts, training_clips
from mosear.resolvers import register_resolvers
from tests.helpers import processes

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
RENDERED = [name for name in EXPERIMENTS if name != "fusion_features"]
"""Those on the synthetic corpus; that one is for features of one's own."""
PUBLISHED = {"mosear_7b": "qwen25_dir", "mosear_30b": "qwen3_dir"}
"""Experiments on published backbones: here a random checkpoint of the same family, on the CPU."""
PROMISE = "two steps of training, validation and test"


def composed(*overrides: str):
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=["run_dir=/tmp/run", *overrides])


@pytest.mark.parametrize("experiment", RENDERED)
def test_every_experiment_makes_two_steps(experiment):
    cfg = composed(f"+experiment={experiment}", "debug=fast")
    clips = training_clips(cfg)
    assert clips == 12
    assert step_counts(cfg.trainer, clips, cfg.data.batch_size, 1)[1] == 2


def test_twenty_steps_are_profiled():
    cfg = composed("+experiment=mosear", "debug=profile")
    assert step_counts(cfg.trainer, 1200, cfg.data.batch_size, 1)[1] == 20


def test_the_small_corpus_is_its_own_and_the_usual_one_is_as_large_as_ever():
    fast, usual = composed("debug=fast"), composed()
    assert fast.data.prepare.root == fast.data_dir + "/synthetic" != usual.data.prepare.root
    assert fast.benchmark.manifest == fast.data.test and fast.data.test.startswith(fast.data_dir)
    sizes = ("train_clips", "val_clips", "test_clips")
    assert [usual.data.prepare[name] for name in sizes] == [1200, 300, 300]
    assert [composed("debug=limit").data.prepare[name] for name in sizes] == [1200, 300, 300]
    assert composed("debug=fast", "data.prepare.test_clips=5").data.prepare.test_clips == 5


def test_clips_of_a_manifest_are_left_alone():
    assert composed("debug=fast", "data=manifest", "data.train=a.jsonl", "data.val=a.jsonl").data.prepare is None


def test_help_and_readme_promise_the_same():
    shown = processes.run(["train.py", "--help"], check=True)
    for text in (shown.stdout, (ROOT / "README.md").read_text()):
        (line,) = [line for line in text.splitlines() if "debug=fast " in line]
        assert PROMISE in line


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("debug")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_ends_within_a_minute(experiment, data_dir, tmp_path, request):
    own = []
    if experiment in PUBLISHED:
        checkpoint = request.getfixturevalue(PUBLISHED[experiment])
        own = [f"backbone.name={checkpoint}", "backbone.dtype=fp32", "trainer=cpu"]
    command = ["train.py", f"+experiment={experiment}", "debug=fast", *own]
    start = time.monotonic()
    done = processes.run([*command, f"data_dir={data_dir}", f"hydra.run.dir={tmp_path / 'run'}"])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["run"]["steps"] == 2
    assert len(metrics["subsets"]) == 7 or experiment in PUBLISHED  # two batches hold one clip of each
    assert time.monotonic() - start < 120, "it takes about ten seconds on an idle machine"
