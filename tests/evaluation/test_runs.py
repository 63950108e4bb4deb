"""What can be read from the files of a finished run, from wherever it is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mosear.evaluation.runs import RunFiles, is_trained_adapter
from tests.helpers.comparison_runs import LABELS, write_run


def started_in(directory: Path, home: Path) -> None:
    """Record where a run was started, as Hydra does."""
    settings = {"hydra": {"runtime": {"cwd": str(home)}}}
    (directory / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(settings))


def test_the_files_of_a_run_are_read(tmp_path):
    files = RunFiles(write_run(tmp_path / "a", seed=7, experiment="mosear", overrides=("seed=7", "+x=1")))
    rows, labels = files.predictions
    assert files.finished and len(rows) == 60 and tuple(labels) == LABELS
    assert (files.experiment, files.trained, files.adapter, files.training) == ("mosear", ("mosear", 7), None, None)
    assert files.overrides == ["seed=7", "+x=1"] and files.started_in == Path()
    (tmp_path / "a" / "config.yaml").write_text("seed: 7\nbackbone: {name: tiny-omni}\n")
    assert files.config.backbone.name == "tiny-omni"


def test_a_missing_file_is_named(tmp_path):
    files = RunFiles(tmp_path)
    assert not files.finished and files.manifest is None and files.media_root is None and files.overrides == []
    for read, name in (("metrics", "metrics.json"), ("predictions", "predictions.parquet"), ("config", "config.yaml")):
        with pytest.raises(ValueError, match=f"{tmp_path} is not a finished run: it has no {name}"):
            getattr(files, read)
    (tmp_path / "config.yaml").write_text("- a list\n")
    with pytest.raises(ValueError, match="is not the config of a run"):
        _ = files.config


def test_the_training_run_is_found_from_where_the_evaluation_was_started(tmp_path):
    write_run(tmp_path / "home" / "outputs" / "lora" / "2", experiment="lora", seed=2)
    evaluation = write_run(tmp_path / "eval", experiment="eval", adapter="outputs/lora/2/adapter")
    assert RunFiles(evaluation).training is None and RunFiles(evaluation).trained == ("2", 0)
    started_in(evaluation, tmp_path / "home")
    training = RunFiles(evaluation).training
    assert training is not None and training.directory == tmp_path / "home" / "outputs" / "lora" / "2"
    assert RunFiles(evaluation).trained == ("lora", 2)
    assert RunFiles.of_adapter("a/b/adapter").directory == Path("a/b")
    assert RunFiles.of_adapter("a/b").directory == Path("a/b")


def test_manifest_and_media_are_found_from_where_the_run_was_started(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "test.jsonl").touch()
    started_in(run, tmp_path / "home")

    def config(root):
        content = {"benchmark": {"manifest": "data/test.jsonl"}, "data": {"root": root}}
        (run / "config.yaml").write_text(yaml.safe_dump(content))
        return RunFiles(run)

    data = tmp_path / "home" / "data"
    assert config(None).manifest == data / "test.jsonl"
    assert config(None).media_root == data  # beside the manifest
    assert config(".").media_root == tmp_path / "home"
    assert config("gone").media_root is None


def test_reading_needs_no_torch():
    code = "import sys, mosear.evaluation.runs, mosear.evaluation.aggregate as a; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_trained_adapter_is_what_peft_would_load(tmp_path):
    assert not is_trained_adapter(tmp_path / "absent") and not is_trained_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert is_trained_adapter(str(tmp_path))
