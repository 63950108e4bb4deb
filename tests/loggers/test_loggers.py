"""Loggers by name, several at once; what of a config others may see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from mosear.config.rules import loggers_are_installed
from mosear.config.validation import ConfigError
from mosear.loggers.build import HIDDEN, build_loggers, public_config, without_private_parts
from mosear.runtime.checks import check_training

ROOT = Path(__file__).parents[2]


def composed(tmp_path: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[f"run_dir={tmp_path}", *overrides])


@pytest.mark.parametrize(
    ("choice", "names"),
    [("csv", ["csv"]), ("none", []), ("[csv,wandb]", ["csv", "wandb"]), ("[csv,tensorboard]", ["csv", "tensorboard"])],
)
def test_choices_compose_and_validate(tmp_path, choice, names):
    cfg = composed(tmp_path, f"logger={choice}")
    check_training(cfg)
    assert list(cfg.logger or {}) == names


def test_a_mistyped_setting_of_a_logger_is_found(tmp_path):
    cfg = composed(tmp_path, "logger=[csv,wandb]", "+logger.wandb.projekt=x", "logger.wandb.media=film")
    with pytest.raises(ConfigError) as error:
        check_training(cfg)
    assert "logger.wandb.projekt" in str(error.value) and "logger.wandb.media" in str(error.value)


def test_a_logger_without_a_name_is_explained():
    (problem,) = loggers_are_installed(
        OmegaConf.create({"logger": {"_target_": "lightning.pytorch.loggers.CSVLogger"}})
    )
    assert "logger=[csv,wandb]" in problem.remedy


def test_tensorboard_that_is_not_installed_is_named_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = loggers_are_installed(composed(tmp_path, "logger=[csv,tensorboard]"))
    assert problem.key == "logger.tensorboard" and ".[loggers]" in problem.remedy


def test_csv_and_tensorboard_get_the_same_numbers(tmp_path):
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers = build_loggers(composed(tmp_path, "logger=[csv,tensorboard]"))
    assert [type(logger) for logger in loggers] == [CSVLogger, TensorBoardLogger]
    for logger in loggers:
        for step, value in enumerate((1.5, 1.25)):
            logger.log_metrics({"train/loss": value}, step=step)
        logger.save()
        logger.finalize("success")
    assert (tmp_path / "csv" / "metrics.csv").read_text() == "step,train/loss\n0,1.5\n1,1.25\n"
    assert not (tmp_path / "csv" / "hparams.yaml").exists()  # config.yaml lies beside it
    events = event_file.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(0, 1.5), (1, 1.25)]
    assert OmegaConf.load(tmp_path / "tensorboard" / "hparams.yaml").name == "train"


def test_private_parts_are_hidden(tmp_path, monkeypatch):
    home, work = tmp_path / "home" / "me", tmp_path / "home" / "me" / "project"
    work.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    assert without_private_parts(
        {
            "hub_token": "abc",
            "api_key": "abc",
            "password": "abc",
            "token": None,
            "max_tokens": 7,
            "url": "https://me:abc@host/x",
            "paths": [f"{home}/data/a", f"{work}/outputs", str(home), str(home) + "x", "/data/b"],
            "nested": {"secret": ["abc"], "label": "sad"},
        }
    ) == {
        "hub_token": HIDDEN,
        "api_key": HIDDEN,
        "password": HIDDEN,
        "token": None,
        "max_tokens": 7,
        "url": f"https://{HIDDEN}@host/x",
        "paths": ["~/data/a", "./outputs", "~", str(home) + "x", "/data/b"],
        "nested": {"secret": [HIDDEN], "label": "sad"},
    }
    assert public_config(OmegaConf.create({"a": f"{home}/x", "b": "${a}/y"})) == {"a": "~/x", "b": "~/x/y"}


def test_wandb_is_not_imported_unless_used():
    code = "import sys, mosear.runtime.flows; assert 'wandb' not in sys.modules and 'tensorboard' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
