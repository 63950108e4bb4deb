"""``mosear push``: what is uploaded, what is not, and what a refusal says; the hub is a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import save

from mosear.__main__ import main
from mosear.methods.model_card import model_card
from mosear.runtime.push import files_to_push
from tests.helpers.hub_server import hub_server

ROOT = Path(__file__).parents[2]
TOKEN = "hf_aSecretThatIsNotToBeSeen"


@pytest.fixture
def run(tmp_path):
    """A finished run on a local backbone, with paths and a secret in its files."""
    import numpy as np

    directory = tmp_path / "home" / "run"
    (directory / "adapter").mkdir(parents=True)
    (tmp_path / "home" / "model").mkdir()
    backbone = str(tmp_path / "home" / "model")
    settings = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "base_model_name_or_path": backbone}
    (directory / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    (directory / "adapter" / "mosear.json").write_text(json.dumps({"name": backbone, "config": {}, "weights": {}}))
    (directory / "adapter" / "adapter_model.safetensors").write_bytes(save({"a": np.ones(3, np.float32)}))
    (directory / "adapter" / "training_args.bin").write_bytes(b"not to be uploaded")
    config = {
        "name": "lora",
        "seed": 3,
        "run_dir": str(directory),
        "logger": {"api_key": TOKEN},
        "backbone": {"name": backbone, "dtype": "fp32"},
        "method": {"_target_": "mosear.methods.answer_tuning.AnswerTuning"},
        "tuning": {"learning_rate": 0.001},
        "trainer": {"max_epochs": 4},
        "data": {
            "train": str(tmp_path / "home" / "train.jsonl"),
            "prepare": None,
            "prompt": {"labels": ["sad", "happy"]},
        },
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    scores = {"n": 20, "accuracy": 0.75, "macro_f1": 0.7, "interval": [0.55, 0.9]}
    metrics = {"benchmark": "mine", "subsets": {"video_aligned": scores}, "conflict_mean": None, "gap": None}
    (directory / "metrics.json").write_text(json.dumps(metrics))
    return directory


def push(*arguments: str, endpoint: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mosear", "push", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def test_nothing_private_is_in_the_files(run, tmp_path):
    files = files_to_push(run)
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors", "config.yaml", "mosear.json"}
    for name, content in files.items():
        assert str(tmp_path).encode() not in content, name
        assert TOKEN.encode() not in content, name
    config = yaml.safe_load(files["config.yaml"])
    assert config["data"]["train"] == "train.jsonl"
    assert config["backbone"]["name"] == json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "model"


def test_the_card_says_what_it_is_and_how_well_it_does(run):
    text = files_to_push(run / "adapter", "apache-2.0")["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["library_name"] == "peft"
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "model"
    assert "mosear" in front["tags"]
    assert "| video aligned | 20 | 75.0 [55.0, 90.0] | 70.0 |" in body
    assert "| labels | sad, happy |" in body
    assert "PeftModel.from_pretrained" in body


def test_a_card_before_the_test_has_no_scores():
    text = model_card({"peft_type": "MOSE", "r": 4, "target_modules": ["q_proj"]}, "Qwen/Qwen2.5-Omni-7B")
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "undecided")
    assert front["base_model"] == "Qwen/Qwen2.5-Omni-7B"
    assert "# MOSE adapter of Qwen/Qwen2.5-Omni-7B" in text
    assert "accuracy" not in text


def test_a_pattern_of_targets_stays_in_its_cell():
    text = model_card({"peft_type": "LORA", "r": 4, "target_modules": "(q|k)_proj"}, "tiny-omni")
    assert r"| adapter | LORA, rank 4, on `(q\|k)_proj` |" in text


def test_what_was_pushed_is_opened_again(run, tmp_path):
    from mosear.runtime.run import Run

    (tmp_path / "downloaded").mkdir()
    for name, content in files_to_push(run).items():
        (tmp_path / "downloaded" / name).write_bytes(content)
    opened = Run.open(tmp_path / "downloaded")
    assert (opened.name, opened.prompt.labels) == ("model", ("sad", "happy"))


def test_a_dry_run_lists_the_files_and_asks_no_hub(run, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(run), "--to", "me/adapter", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "adapter_model.safetensors" in told
    assert "nothing was uploaded (--dry-run); a new me/adapter would be private" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{run}", "--to", "adapter"], "--to 'adapter' is not a repository. Write user/name"),
        (["{run}/..", "--to", "me/adapter"], "has no config.yaml"),
    ],
)
def test_mistakes_are_sentences(run, capsys, arguments, told):
    assert main(["push", *(argument.format(run=run) for argument in arguments)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_the_hub_gets_the_files(run):
    with hub_server(TOKEN) as hub:
        done = push(str(run), "--to", "me/adapter", endpoint=hub.address)
        assert done.returncode == 0, done.stdout + done.stderr
        assert hub.files == files_to_push(run)
        (created,) = hub.created
        assert created.get("private") is True or created.get("visibility") == "private"
        assert f"uploaded to {hub.address}/me/adapter" in done.stdout
        assert TOKEN not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_refusal_is_a_sentence(run):
    with hub_server("hf_another") as hub:
        done = push(str(run), "--to", "me/adapter", endpoint=hub.address)
        assert done.returncode == 2
        assert hub.files == {}
        assert f"error: {hub.address} refused 'me/adapter' with status 401. Log in with `hf auth login`" in done.stderr
        assert "Traceback" not in done.stderr
        assert TOKEN not in done.stdout + done.stderr
    done = push(str(run), "--to", "me/adapter", endpoint=hub.address)
    assert done.returncode == 2
    assert f"{hub.address} cannot be reached" in done.stderr
