"""A system of one's own trains, is tested and reported through the flows, without any of them knowing it."""

from __future__ import annotations

import json
from pathlib import Path

from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from mosear.evaluation.predictions import read_predictions
from mosear.runtime.checks import check_training
from mosear.runtime.flows import train

ROOT = Path(__file__).parents[2]


def test_a_toy_system_goes_through_training(tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "train",
            overrides=[
                f"run_dir={tmp_path}",
                "system._target_=tests.helpers.toy_system.build_toy_system",
                f"data_dir={tmp_path}",
                *(f"data.prepare.{split}_clips=1" for split in ("train", "val", "test")),
                "trainer.max_epochs=6",
                "callbacks.progress=null",
                "+trainer.enable_progress_bar=false",
                "benchmark.name=toy",
            ],
        )
    check_training(cfg)
    metrics = train(cfg)
    assert (
        metrics["subsets"]["consistent"]["accuracy"] == 1.0 > metrics["zero_shot"]["subsets"]["consistent"]["accuracy"]
    )
    assert metrics["toy"] == {"rows": 16} == metrics["zero_shot"]["toy"] and metrics["run"]["features"] == 4
    assert json.loads((tmp_path / "metrics.json").read_text())["subsets"] == metrics["subsets"]
    rows, labels = read_predictions(tmp_path / "predictions.parquet")
    assert labels == ["sad", "happy"] and [row.model for row in rows] == ["zero_shot"] * 16 + ["tuned"] * 16
    assert set(load_file(tmp_path / "adapter" / "head.safetensors")) == {"weight", "bias"}
    assert "toy" in (tmp_path / "report.html").read_text()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1].startswith("step-")
