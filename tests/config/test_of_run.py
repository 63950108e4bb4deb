"""``eval.py run=RUN``: an evaluation takes from the run what the run was trained with."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mosear.config.of_run import with_settings_of_run
from mosear.config.renamed import refuse_renamed
from mosear.problems import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on another backbone, with a question and budgets of its own."""
    shutil.copytree(ROOT / "tests" / "fixtures" / "earlier" / "run" / "adapter", tmp_path / "adapter")
    cfg = OmegaConf.load(ROOT / "tests" / "fixtures" / "earlier" / "run" / "config.yaml")
    cfg.backbone.name = "tiny-omni-balanced"
    cfg.data.prompt.question = "How does this person feel?"
    cfg.data.prompt.labels = ["sad", "happy"]
    cfg.data.budget.num_frames = 5
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    return tmp_path


def evaluation(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("eval", overrides=["run_dir=/tmp/run", *overrides])
    return with_settings_of_run(cfg, overrides)


def test_backbone_question_labels_and_budgets_are_the_run_s(run: Path) -> None:
    for overrides in ([f"run={run}"], [f"adapter_path={run / 'adapter'}"]):
        cfg = evaluation(*overrides)
        assert cfg.adapter_path == str(run / "adapter")
        assert cfg.backbone.name == "tiny-omni-balanced"
        assert (cfg.data.prompt.question, list(cfg.data.prompt.labels)) == (
            "How does this person feel?",
            ["sad", "happy"],
        )
        assert cfg.data.budget.num_frames == 5


def test_the_command_line_wins_and_differences_are_told(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        cfg = evaluation(f"run={run}", "data.budget.num_frames=3", "backbone=tiny_omni")
    assert (cfg.data.budget.num_frames, cfg.backbone.name) == (3, "tiny-omni")
    assert list(cfg.data.prompt.labels) == ["sad", "happy"]
    assert "data.budget.num_frames is 3, in the run 5" in caplog.text
    assert "backbone.name is 'tiny-omni', in the run 'tiny-omni-balanced'" in caplog.text


def test_a_benchmark_asks_its_own_question(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        cfg = evaluation(f"run={run}", "benchmark=meld", "benchmark.manifest=meld.parquet")
    assert "surprise" in cfg.data.prompt.labels and cfg.backbone.name == "tiny-omni-balanced"
    assert "data.prompt.labels" in caplog.text


def test_no_run_and_an_adapter_without_a_run_change_nothing(run: Path) -> None:
    (run / "config.yaml").unlink()
    cfg = evaluation(f"run={run}")
    assert cfg.adapter_path == str(run / "adapter") and cfg.backbone.name == "tiny-omni"
    assert evaluation().adapter_path is None


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no adapter/ with an adapter_config.json"):
        evaluation(f"run={tmp_path}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("mixing.rate=0.5", "mixing is now method, with method=conflict_mixing"),
        ("+mixing.teacher=adapted", "mixing is now method"),
        ("tuning.betas=[0.8,0.9]", "tuning.betas is now tuning.optimizer.betas"),
    ],
)
def test_old_keys_name_the_new_ones(argument: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        refuse_renamed(["seed=1", argument])
    refuse_renamed(["seed=1", "method=conflict_mixing", "-m"])
