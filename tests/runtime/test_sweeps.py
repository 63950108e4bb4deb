"""Sweeps: W&B's own agent turns the shipped file into command lines, which validate, run, and log the metric."""

from __future__ import annotations

import json
import os
import queue
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from mosear.data.synthetic.corpus import ensure_corpus
from mosear.resolvers import register_resolvers
from mosear.runtime.checks import check_training
from tests.helpers import processes
from tests.helpers.wandb_offline import offline_runs

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "launch" / "sweeps").glob("*.yaml"))
TINY = {
    "debug": "fast",
    "trainer.limit_val_batches": 1.0,
    "callbacks.progress": "null",
    "data.eval_batch_size": 50,
    "data.prepare.test_clips": 4,
    "data.prepare.train_clips": 12,
    "data.prepare.val_clips": 12,
    "data.prepare.workers": 1,
}


def sweep_file(path: Path) -> dict[str, Any]:
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    return load_sweep_config(str(path))


def ends(parameter: dict[str, Any]) -> tuple[Any, Any]:
    """The first and last of listed values, or the bounds of a range."""
    values = parameter.get("values")
    return (values[0], values[-1]) if values else (parameter["min"], parameter["max"])


def trial(config: dict[str, Any], side: int) -> dict[str, Any]:
    """One trial as W&B's server describes it to an agent, with every value at one end of its range."""
    chosen = {name: {"value": ends(parameter)[side]} for name, parameter in config["parameters"].items()}
    return {"run_id": f"trial{side}", "program": config["program"], "args": chosen}


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """W&B's agent, as ``wandb agent`` builds it; nobody listens on the other side."""
    from wandb.wandb_agent import Agent

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in {"WANDB_DIR": tmp_path, "WANDB_SWEEP_ID": "sweep1"}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them for good
        monkeypatch.setenv(name, "")
    return Agent(api=None, queue=queue.Queue(), sweep_id="sweep1")


def started_by(agent: Any, config: dict[str, Any], command: dict[str, Any]) -> Any:
    agent._sweep_command = list(config["command"])
    agent._command_run(command)
    return agent._run_processes[command["run_id"]]


def rendered(agent: Any, config: dict[str, Any], command: dict[str, Any], directory: Path) -> list[str]:
    """The command line that a trial gets, as a process sees it."""
    recorder = directory / "recorder"
    recorder.write_text(
        f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open({str(directory / 'args')!r}, 'w'))\n"
    )
    recorder.chmod(0o755)
    replaced = [str(recorder) if part == "launch/torchrun.sh" else part for part in config["command"]]
    assert str(recorder) in replaced, "a trial is one torchrun"
    process = started_by(agent, {**config, "command": replaced}, command)
    assert process.wait() == 0
    return json.loads((directory / "args").read_text())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("side", [0, 1])
def test_every_value_is_an_override_that_validates(path, side, agent, tmp_path):
    config = sweep_file(path)
    command = trial(config, side)
    overrides = rendered(agent, config, command, tmp_path)
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[f"run_dir={tmp_path}", *overrides], return_hydra_config=True)
    assert cfg.hydra.run.dir == f"outputs/sweeps/{command['run_id']}"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[f"run_dir={tmp_path}", *overrides])
    check_training(cfg)
    for name, entry in command["args"].items():
        node: Any = cfg
        for part in name.split("."):
            node = node[part]
        assert node == entry["value"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_nothing_but_validation_data_selects(path, agent, tmp_path):
    config = sweep_file(path)
    assert config["metric"]["name"].startswith("val/")
    overrides = rendered(agent, config, trial(config, 0), tmp_path)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[f"run_dir={tmp_path}", *overrides])
    assert cfg.data.test == cfg.benchmark.manifest == cfg.data.val
    assert cfg.data.val_subset is None, "consistent clips alone cannot rank what concerns conflicts"


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_trial_runs_and_logs_the_metric(path, agent, tmp_path, monkeypatch):
    ensure_corpus(tmp_path / "data" / "synthetic", test_clips=4, train_clips=12, val_clips=12, workers=1)
    config = sweep_file(path)
    command = trial(config, 1)
    run_dir = tmp_path / "run"
    tiny = {
        **TINY,
        "data_dir": tmp_path / "data",
        "hydra.run.dir": run_dir,
        "trainer.max_epochs": 2,
        "trainer.max_steps": -1,
    }
    command["args"] |= {name: {"value": str(value)} for name, value in tiny.items()}
    own = {
        "WANDB_MODE": "offline",
        "HOME": tmp_path,
        "PYTHON": sys.executable,
        "NPROC_PER_NODE": 1,
        "OMP_NUM_THREADS": 1,
    }
    for name, value in own.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(ROOT)
    process = started_by(agent, config, command)
    assert process.wait() == 0
    (run,) = offline_runs(run_dir)
    assert run.id == command["run_id"]
    assert config["metric"]["name"] in run.metrics()
    assert len([row for row in run.history if config["metric"]["name"] in row]) == 2  # early termination counts these
    for name in config["parameters"]:
        assert run.config[name] == command["args"][name]["value"]
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["benchmark"] == "validation"
    assert metrics["subsets"]["consistent"]["n"] == 12


def test_multirun_on_several_devices_is_refused_with_the_remedy(tmp_path):
    done = processes.run(["train.py", "-m", "trainer.devices=2", "seed=0,1", f"hydra.sweep.dir={tmp_path}"])
    assert done.returncode != 0
    assert "--multirun runs a job in one process" in done.stderr and "one torchrun per value" in done.stderr
