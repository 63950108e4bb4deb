"""Fusion models through every step of a run: training, selection, report, evaluation, resuming, bad media."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict
from safetensors.torch import load_file

from mosear.callbacks.checkpoint_files import complete
from mosear.config.of_run import with_settings_of_run
from mosear.config.validation import ConfigError
from mosear.data.rows import ManifestError
from mosear.evaluation.predictions import read_predictions
from mosear.resolvers import register_resolvers
from mosear.runtime.checks import check_evaluation, check_training
from mosear.runtime.flows import evaluate, train
from tests.helpers.corpus import rendered_corpus
from tests.helpers.torchrun import torchrun
from tests.helpers.training_child import TrainingRuns, interruption

ROOT = Path(__file__).parents[2]
CORPUS = {"test_clips": 2, "train_clips": 16, "val_clips": 8, "workers": 1}
RECIPE = [
    "+experiment=fusion",
    "model=linear_probe",
    *(f"data.prepare.{name}={value}" for name, value in CORPUS.items()),
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "report.examples=2",
    "callbacks.progress=null",
    "+trainer.enable_progress_bar=false",
]
ROBUST = ["system.augment.modality_dropout=0.3", "system.test_noise=[0.001,5]"]
SHARED = ("id", "subset", "label", "prediction", "distribution", "p_visual", "p_audio", "p_text")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered_corpus(tmp_path_factory, **CORPUS)


def composed(name: str, run_dir: Path, data_dir: Path, *overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=[f"run_dir={run_dir}", f"data_dir={data_dir}", *overrides])


def trained(run_dir: Path, data_dir: Path, *overrides: str) -> dict:
    cfg = composed("train", run_dir, data_dir, *RECIPE, *overrides)
    check_training(cfg)
    return train(cfg)


@pytest.fixture(scope="module")
def run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("fusion")
    trained(run_dir, data_dir, "answering.contribution.enabled=true", *ROBUST)
    return run_dir


def test_noise_is_that_of_the_clip(run: Path, data_dir: Path, tmp_path: Path) -> None:
    found = json.loads((run / "metrics.json").read_text())["noise"]
    assert found.keys() == {"0.001", "5"} and found["5"].keys() == found["0.001"].keys()
    plain = json.loads((run / "metrics.json").read_text())["subsets"]
    assert {name: subset["accuracy"] for name, subset in plain.items()} == found["0.001"]


def test_a_run_leaves_what_every_run_leaves(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    rows, labels = read_predictions(run / "predictions.parquet")
    assert len(rows) == sum(subset["n"] for subset in metrics["subsets"].values()) and len(labels) == 6
    assert metrics["run"]["model"] == "LinearProbe" and metrics["run"]["features"] == "towers of tiny-omni"
    assert {"late_fusion", "late_fusion_transcript"} <= metrics["controls"].keys(), "readings were made"
    by_id = {row.id: row for row in rows}
    for row in by_id.values():
        assert row.distribution is not None and sum(row.distribution) == pytest.approx(1)
        assert (row.p_visual is None) == (row.subset == "missing_video")
        assert (row.p_text is None) == (row.text is None)
    shapley = metrics["contribution"]["subsets"]["consistent"]["log_prob"]
    assert shapley["all"] - shapley["none"] == pytest.approx(sum(shapley["shapley"].values()))
    assert shapley["verdict"] == "undecided", "two clips decide nothing"
    assert "tokens_per_second" not in metrics["run"] and metrics["run"]["clips_per_second"] > 0
    report = (run / "report.html").read_text()
    assert "LinearProbe" in report and "Learning curve" in report


def test_an_evaluation_finds_the_same(run: Path, data_dir: Path, tmp_path: Path) -> None:
    cfg = composed("eval", tmp_path, data_dir, f"run={run}", "callbacks.progress=null", "zero_shot=false")
    with open_dict(cfg):
        cfg.data.prepare.update(CORPUS)
    cfg = with_settings_of_run(cfg, [f"run={run}"])
    check_evaluation(cfg)
    evaluate(cfg)
    rows = [read_predictions(path / "predictions.parquet")[0] for path in (run, tmp_path)]
    assert len(rows[0]) == len(rows[1]) > 0
    for mine, theirs in zip(*rows, strict=True):
        assert all(getattr(mine, name) == getattr(theirs, name) for name in SHARED)


def test_features_of_a_split_are_read_from_one_file_the_next_time(run: Path, data_dir: Path, tmp_path: Path) -> None:
    tables = data_dir / "cache" / "tables"
    before = {path: path.stat().st_mtime_ns for path in tables.iterdir()}
    assert len(before) == 3
    trained(tmp_path / "same", data_dir, "answering.contribution.enabled=true", *ROBUST)
    assert {path: path.stat().st_mtime_ns for path in tables.iterdir()} == before
    assert (tmp_path / "same" / "predictions.parquet").read_bytes() == (run / "predictions.parquet").read_bytes()
    torn = next(iter(before))
    torn.write_bytes(torn.read_bytes()[:100])
    trained(tmp_path / "torn", data_dir, "answering.contribution.enabled=true", *ROBUST)
    assert (tmp_path / "torn" / "predictions.parquet").read_bytes() == (run / "predictions.parquet").read_bytes()
    trained(tmp_path / "tokens", data_dir, "features.video=tokens")
    assert len(list(tables.iterdir())) == 6, "other features, other files"


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_left_alone(data_dir: Path, tmp_path: Path) -> None:
    options = [*RECIPE, f"data_dir={data_dir}", "resume=auto", "callbacks.checkpoint.every_n_steps=2"]
    start = TrainingRuns([*options, "model=late_fusion", "system.augment.modality_dropout=0.3"])
    assert start(tmp_path / "alone") == 0
    for step in (1, 3, 6):
        assert start(tmp_path / "killed", *interruption(step=step)) == -9
    assert start(tmp_path / "killed") == 0
    assert len(complete(tmp_path / "killed" / "checkpoints")) > 0
    weights = [load_file(tmp_path / name / "adapter" / "model.safetensors") for name in ("alone", "killed")]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    first, second = ((tmp_path / name / "predictions.parquet").read_bytes() for name in ("alone", "killed"))
    assert first == second


def test_a_clip_with_bad_media_counts_as_wrong(data_dir: Path, tmp_path: Path) -> None:
    own = rendered_into(tmp_path / "data")
    broken = sorted((own / "synthetic").rglob("*.mp4"))
    for path in broken:
        if "test" in str(path.relative_to(own)):
            path.write_bytes(b"no film")
            break
    else:
        pytest.fail(f"no test clip among {broken[:3]}")
    metrics = trained(tmp_path / "run", own, "data.on_bad_media=quarantine")
    assert sum(subset["quarantined"] for subset in metrics["subsets"].values()) >= 1
    assert "bad media" in str(
        [row.unparsed_reason for row in read_predictions(tmp_path / "run" / "predictions.parquet")[0]]
    )
    assert (tmp_path / "run" / "quarantine.jsonl").is_file()


def rendered_into(root: Path) -> Path:
    from mosear.data.synthetic.corpus import ensure_corpus

    ensure_corpus(root / "synthetic", **CORPUS)
    return root


def test_what_cannot_work_is_told_at_once(data_dir: Path, tmp_path: Path) -> None:
    wrong = [
        "zero_shot=true", "adapter={_target_:peft.LoraConfig}", "steering=ar", "init_from=/somewhere", "task=series",
        "model=tfn", "+model.colour=red",
        "system.augment.noise=-1",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as found:
        check_training(composed("train", tmp_path, data_dir, *RECIPE, *wrong))
    keys = {problem.key for problem in found.value.problems}
    assert {"zero_shot", "adapter", "init_from", "steering", "task", "model.colour"} <= keys
    with pytest.raises(ConfigError, match=r"levels must give a score to exactly the labels.*Set task\.levels"):
        check_training(composed("train", tmp_path, data_dir, *RECIPE, "task=score"))
    with pytest.raises(ConfigError, match="steps is 7, into which the 96 numbers of audio cannot be cut evenly"):
        check_training(composed("train", tmp_path, data_dir, *RECIPE, "model=gated_xlstm", "model.steps=7"))
    with pytest.raises(ManifestError, match=r"16 of 16 train clips cannot be used.*it has no score"):
        levels = "task.levels={neutral:0,angry:-2,happy:2,sad:-1,worried:-1,surprise:1}"
        trained(tmp_path, data_dir, "task=score", levels)
    with pytest.raises(ConfigError, match="no trained fusion model"):
        check_evaluation(composed("eval", tmp_path, data_dir, "+experiment=fusion"))


def test_a_model_of_other_features_is_refused(run: Path, data_dir: Path, tmp_path: Path) -> None:
    content = json.loads((run / "adapter" / "fusion.json").read_text())
    assert content["dimensions"] == {"video": 96, "audio": 96, "text": 96} and content["task"]["_target_"]
    other = tmp_path / "adapter"
    other.mkdir()
    (other / "model.safetensors").write_bytes((run / "adapter" / "model.safetensors").read_bytes())
    (other / "fusion.json").write_text(json.dumps({**content, "labels": ["sad", "happy"]}))
    cfg = composed("eval", tmp_path, data_dir, "+experiment=fusion", "model=linear_probe")
    with open_dict(cfg):
        cfg.adapter_path = str(other)
        cfg.data.prepare.update(CORPUS)
    with pytest.raises(ConfigError, match="was trained with labels"):
        evaluate(cfg)


def test_fusion_and_omni_models_stand_in_one_table(run: Path, data_dir: Path, tmp_path: Path) -> None:
    from mosear.evaluation.aggregate import collect, table

    options = [f"data.prepare.{name}={value}" for name, value in CORPUS.items()]
    cfg = composed("eval", tmp_path / "bare", data_dir, *options, "data.num_workers=0", "callbacks.progress=null")
    check_evaluation(cfg)
    evaluate(cfg)
    found = table(collect([run, tmp_path / "bare"]), n_boot=50)
    assert {"zero-shot", "fusion", "fusion, late fusion + transcript"} <= {row[0] for row in found}
    assert {row[1] for row in found[1:]} == {"1 x 1"}, "one base: the backbone"


@pytest.mark.slow
@pytest.mark.multinode
def test_two_processes_train_what_one_does(data_dir: Path, tmp_path: Path) -> None:
    plain = [*RECIPE, f"data_dir={data_dir}", "model=late_fusion", "model.dropout=0"]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    for name, processes, own in (("one", 1, ["data.batch_size=4"]), ("two", 2, [*two, "data.batch_size=2"])):
        done = torchrun(processes, "train.py", *plain, *own, f"hydra.run.dir={tmp_path / name}")
        assert done.returncode == 0, done.stdout + done.stderr
    weights = [load_file(tmp_path / name / "adapter" / "model.safetensors") for name in ("one", "two")]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-3, atol=1e-4)
    rows = [read_predictions(tmp_path / name / "predictions.parquet")[0] for name in ("one", "two")]
    assert [row.id for row in rows[0]] == [row.id for row in rows[1]]
