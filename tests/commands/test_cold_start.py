"""What a cold process must not import, and that what it leaves out comes back."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mosear.data.synthetic.corpus import ensure_corpus
from mosear.predict import parse_arguments, unneeded
from mosear.startup import quick_imports

ROOT = Path(__file__).parents[2]
NOT_FOR_ANSWERS = (
    "bitsandbytes", "datasets", "deepspeed", "lightning", "matplotlib", "pandas", "scipy", "sklearn", "tensorboard",
    "torchmetrics", "triton", "wandb",
)  # fmt: skip
LOADED = "import json, sys; {}; print(json.dumps([name for name, module in sys.modules.items() if module is not None]))"


def modules_after(code: str) -> set[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOADED.format(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", ["import mosear", "import mosear.predict", "import mosear.commands.predict"])
def test_light_modules(code):
    light = {*NOT_FOR_ANSWERS, "torch", "transformers", "peft", "numpy", "hydra", "omegaconf", "rich", "pyarrow"}
    assert not light & modules_after(code)


def test_a_command_line_is_checked_without_torch():
    code = "from mosear.commands import train; sys.argv = ['mosear', '+experiment=lora', '--cfg', 'job']; train.main()"
    assert not {*NOT_FOR_ANSWERS, "torch", "transformers", "peft", "numpy"} & modules_after(code)


@pytest.mark.slow
def test_an_answer_needs_no_library_of_training(tmp_path):
    ensure_corpus(tmp_path / "synthetic", test_clips=1, train_clips=6, val_clips=1, workers=1)
    clip = next(tmp_path.rglob("*.mp4"))
    code = f"from mosear.predict import main; assert main(['{clip}']) == 0"
    assert not {*NOT_FOR_ANSWERS} & modules_after(code)


def test_libraries_come_back_after_the_block(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delitem(sys.modules, "this_is_not_loaded", raising=False)
    with quick_imports(without=["this_is_not_loaded", "json"]):
        assert sys.modules["this_is_not_loaded"] is None
        assert sys.modules["json"] is json
        assert not gc.isenabled()
    assert "this_is_not_loaded" not in sys.modules
    assert gc.isenabled()


def test_nothing_is_hidden_where_torch_is_there():
    import torch  # noqa: F401

    with quick_imports(without=["this_is_not_loaded"]):
        assert "this_is_not_loaded" not in sys.modules


@pytest.mark.parametrize(
    ("name", "quantization", "hidden"),
    [("tiny-omni", "null", True), ("tiny-omni", "nf4", False), ("Qwen/Qwen2.5-Omni-7B", "null", False)],
)
def test_only_plain_embedded_backbones_do_without(name, quantization, hidden, tmp_path):
    (tmp_path / "config.yaml").write_text(f"backbone:\n  name: {name}\n  quantization: {quantization}\n")
    for adapter in (tmp_path, tmp_path / "adapter"):
        assert bool(unneeded(parse_arguments(["a.mp4", "--adapter", str(adapter)]))) is hidden


def test_a_run_without_a_config_hides_nothing(tmp_path):
    (tmp_path / "config.yaml").write_text("[1\n")
    assert unneeded(parse_arguments(["a.mp4", "--adapter", str(tmp_path)])) == ()
    assert unneeded(parse_arguments(["a.mp4", "--adapter", str(tmp_path / "no" / "run")])) == ()
    assert unneeded(parse_arguments(["a.mp4"])) == ("bitsandbytes", "scipy", "triton")
