"""``init_from``: training begins with a trained adapter of the same settings on the same backbone, and no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Trainer
from omegaconf import DictConfig
from safetensors.torch import load_file

from mosear.backbones import load_backbone
from mosear.backbones.identity import identity, save_identity
from mosear.config.validation import ConfigError
from mosear.resolvers import register_resolvers
from mosear.runtime.adapter_files import AdapterError
from mosear.runtime.adapters import load_adapter
from mosear.runtime.checks import check_training
from mosear.runtime.omni import build_omni_system
from tests.helpers import processes

ROOT = Path(__file__).parents[2]
EARLIER = ROOT / "tests" / "fixtures" / "earlier" / "run"
SAME = [
    "adapter=mose", "adapter.r=1", "adapter.alpha=8", "adapter.target_modules=[q_proj]",
    "adapter.layers_to_transform=[0]",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run on tiny-omni, whose adapter says what it was trained on."""
    directory = tmp_path / "cold"
    shutil.copytree(EARLIER, directory)
    backbone = load_backbone("tiny-omni")
    save_identity(directory / "adapter", backbone.name, identity(backbone))
    return directory


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=["run_dir=/tmp/run", "data.cache_dir=null", *overrides])


@pytest.mark.parametrize("ending", ["", "adapter"])
def test_training_begins_with_those_weights(run: Path, ending: str) -> None:
    cfg = composed(*SAME, f"init_from={run / ending}", "adapter.dropout=0.1", "adapter.balance_weight=0.5")
    check_training(cfg)
    system = build_omni_system(cfg, Trainer(accelerator="cpu", logger=False, barebones=True))
    theirs = load_adapter(load_backbone("tiny-omni"), run / "adapter")
    saved = load_file(run / "adapter" / "adapter_model.safetensors")
    mine = {name.removeprefix("network."): own for name, own in system.named_parameters() if own.requires_grad}
    expected = {name: own for name, own in theirs.named_parameters() if "mose_" in name}
    assert mine.keys() == expected.keys() and len(mine) == len(saved)
    assert all(torch.equal(mine[name], expected[name]) for name in mine)
    assert system.network.peft_config["default"].balance_weight == 0.5, "what shapes training is this run's own"
    fresh = build_omni_system(composed(*SAME), Trainer(accelerator="cpu", logger=False, barebones=True))
    assert any(not torch.equal(own, mine[name.removeprefix("network.")]) for name, own in fresh.named_parameters()
               if own.requires_grad)  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["adapter.alpha=16"], "alpha is 8 there and 16 here"),
        (["adapter.r=2", "adapter.gate=uniform"], "gate is 'learned' there and 'uniform' here; r is 1 there and 2"),
        (["adapter.layers_to_transform=null"], r"layers_to_transform is [0] there and None here"),
        (["adapter=lora"], "peft_type is 'MOSE' there and 'LORA' here"),
        (["backbone=tiny_omni_balanced"], "trained on 'tiny-omni' (4 layers"),
    ],
)
def test_other_adapters_and_backbones_are_refused_before_anything_is_loaded(
    run: Path, overrides: list[str], expected: str
) -> None:
    own = overrides if overrides[0] == "adapter=lora" else [*SAME, *overrides]
    with pytest.raises(ConfigError) as found:
        check_training(composed(*own, f"init_from={run}"))
    assert expected in str(found.value)
    assert {problem.key for problem in found.value.problems} == {"init_from"}


def test_what_is_no_adapter_ends_with_a_sentence(tmp_path: Path) -> None:
    done = processes.run(["train.py", f"init_from={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}"])
    assert done.returncode == 2
    assert "not a trained adapter" in done.stderr and "Traceback" not in done.stderr


def test_a_backbone_with_other_weights_is_refused_once_it_is_loaded(run: Path) -> None:
    path = run / "adapter" / "mosear.json"
    told = json.loads(path.read_text())
    told["backbone"]["weights"]["norm"][0] += 1.0
    path.write_text(json.dumps(told))
    cfg = composed(*SAME, f"init_from={run}")
    check_training(cfg)
    with pytest.raises(AdapterError, match=r"its weights differ \(norm\)"):
        build_omni_system(cfg, Trainer(accelerator="cpu", logger=False, barebones=True))
