"""``data.answer_from=score``: an omni model is tuned to write a clip's score, and tested as a regression."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from mosear.config.validation import ConfigError
from mosear.data.clip import Clip
from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.rows import ManifestError
from mosear.data.scores import labelled_by_score
from mosear.evaluation.predictions import read_predictions
from mosear.resolvers import register_resolvers
from mosear.runtime.checks import check_training
from mosear.runtime.flows import train
from tests.helpers.corpus import rendered_corpus

ROOT = Path(__file__).parents[2]
LABELS = ["-1.0", "-0.5", "0.0", "0.5", "1.0"]
SCORES = {"neutral": 0.0, "angry": -0.8, "happy": 0.9, "sad": -0.6, "worried": -0.3, "surprise": 0.2}


def test_the_label_is_the_number_next_to_the_score(tmp_path: Path) -> None:
    scores = [-3.0, -0.76, -0.74, 0.24, 0.26, 0.25]
    clips = [Clip(id=str(i), text="x", label="sad" if i else None, score=score) for i, score in enumerate(scores)]
    found = labelled_by_score(load_manifest(write_manifest(clips, tmp_path / "m.parquet")), LABELS)
    assert [clip.label for clip in found] == ["-1.0", "-1.0", "-0.5", "0.0", "0.5", "0.0"]
    assert [clip.score for clip in found] == scores and found[2:4][0].id == "2"
    write_manifest([*clips, Clip(id="none", text="x")], tmp_path / "n.parquet")
    with pytest.raises(ManifestError, match=r"1 clips have no score, e\.g\. 'none'"):
        labelled_by_score(load_manifest(tmp_path / "n.parquet"), LABELS)
    with pytest.raises(ValueError, match="labels must be numbers, got sad"):
        labelled_by_score(found, ["sad"])


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = rendered_corpus(tmp_path_factory, test_clips=1, train_clips=8, val_clips=4, workers=1) / "synthetic"
    for split, name in (("train", "train_natural"), ("val", "val"), ("test", "test")):
        clips = [replace(clip, score=SCORES[str(clip.label)]) for clip in load_manifest(root / f"{name}.parquet")]
        write_manifest(clips, root / f"scores_{split}.parquet")
    return [
        "+experiment=lora", "data=manifest", f"data.train={root}/scores_train.parquet",
        f"data.val={root}/scores_val.parquet",
        "benchmark=manifest", f"benchmark.manifest={root}/scores_test.parquet", "benchmark.metrics=[mosi]",
        "+data.answer_from=score", f"data.prompt.labels={json.dumps(LABELS)}".replace(" ", ""), "data.batch_size=4",
        "data.num_workers=0", "data.max_pixels=12544", "data.budget.max_pixels=12544", "data.decode.mode=inline",
        "trainer.max_epochs=1", "callbacks.progress=null", "+trainer.enable_progress_bar=false", "report.examples=1",
        "zero_shot=false",
    ]  # fmt: skip


def composed(run_dir: Path, *overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[f"run_dir={run_dir}", *overrides])


@pytest.mark.parametrize("answering", ["score", "generate"])
def test_a_run_is_scored_as_a_regression(options: list[str], tmp_path: Path, answering: str) -> None:
    cfg = composed(tmp_path, *options, f"answering.method={answering}", "adapter=mse")
    check_training(cfg)
    metrics = train(cfg)
    assert metrics["kind"] == "score" and "mosi" in metrics["benchmark_metrics"]
    rows, labels = read_predictions(tmp_path / "predictions.parquet")
    assert labels == LABELS
    for row in rows:
        assert row.score is not None and row.label in LABELS
        if row.prediction is None:
            assert row.predicted_score is None
        elif answering == "score":
            assert row.distribution is not None
            expected = sum(float(label) * p for label, p in zip(LABELS, row.distribution, strict=True))
            assert row.predicted_score == pytest.approx(expected)
        else:
            assert row.predicted_score == float(row.prediction)


def test_labels_that_are_no_numbers_are_told(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="answers are scores, so labels must be numbers, got sad, happy"):
        check_training(composed(tmp_path, *options, "data.prompt.labels=[sad,happy]"))
