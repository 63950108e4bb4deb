"""Runs on the corpora of label sets and of moving expressions: trained, tested, reopened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mosear.config.foreign import without_code
from mosear.data.manifest import load_manifest
from mosear.runtime.run import Run
from tests.helpers import processes

ROOT = Path(__file__).parents[2]
FLAVOURS = {
    "synthetic_blends": (["task=labels"], "multilabel", {"single", "blend", "none", "split_over_modalities"}),
    "synthetic_continuous": (["task=series", "model=grjca_small"], "affwild", {"moving", "still"}),
}


@pytest.mark.parametrize("name", FLAVOURS)
def test_a_reopened_run_renders_its_own_corpus(name, tmp_path) -> None:
    own = [f"data.prepare.{key}=1" for key in ("train_clips", "val_clips", "test_clips", "workers")]
    chosen = [f"data={name}", f"benchmark={name}", f"data_dir={tmp_path}", f"run_dir={tmp_path / 'run'}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[*chosen, *own, "+data.prepare.size=32"])
    saved = OmegaConf.create({"data": OmegaConf.to_container(cfg.data, resolve=True)})
    without_code(saved, tmp_path / "config.yaml")
    Run(saved).prepare_clips()
    assert {clip.subset for clip in load_manifest(cfg.data.test)} == FLAVOURS[name][2]


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAVOURS)
def test_a_fusion_model_trains_and_is_tested_again(name, tmp_path) -> None:
    target, metric, subsets = FLAVOURS[name]
    places = [f"benchmark={name}", "debug=fast", f"data_dir={tmp_path / 'data'}"]
    command = ["train.py", "+experiment=fusion", f"data={name}", *target, *places]
    done = processes.run([*command, f"hydra.run.dir={tmp_path / 'run'}"])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    again = ["eval.py", f"run={tmp_path / 'run'}", *places, f"hydra.run.dir={tmp_path / 'again'}"]
    done = processes.run(again)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    first, second = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("run", "again"))
    assert set(first["benchmark_metrics"][metric]) == {*subsets, "overall"} and set(first["subsets"]) == subsets
    assert second["benchmark_metrics"] == first["benchmark_metrics"]
