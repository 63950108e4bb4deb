"""PEFT's own ways to load an adapter take all of a MoSE adapter's weights and nothing else, or refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from tests.helpers.mose_models import adapted
from tests.helpers.omni_samples import fresh

Weights = dict[str, Tensor]
IDS = torch.arange(40, 60)[None]
HEAD = "base_model.model.lm_head.weight"


def poisoned(weights: Weights) -> Weights:
    next(iter(weights.values())).view(-1)[0] = float("nan")
    return weights


DAMAGE: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "renamed": (
        lambda w: {k.replace("mose_A", "lora_A"): v for k, v in w.items()},
        "not in the file.*no parameter",
    ),
    "half": (lambda w: dict(list(w.items())[::2]), r"\d+ of \d+ parameters are not in the file"),
    "no gates": (lambda w: {k: v for k, v in w.items() if "mose_W" not in k}, r"3 of \d+ .*mose_gate\.mose_W\.default"),
    "NaN": (poisoned, r"1 of \d+ tensors hold NaN or infinity"),
    "backbone": (lambda w: w | {HEAD: torch.zeros(3, 3)}, r"1 of \d+ tensors belong to no.*lm_head\.weight"),
    "shapes": (lambda w: {k: v[:1].clone() if "mose_A" in k else v for k, v in w.items()}, r"is \(1, .*not \(6, "),
    "empty": (lambda w: {}, r"parameters are not in the file"),
}


@pytest.fixture
def adapter(qwen25: OmniBackbone, tmp_path: Path) -> Path:
    """A sound one."""
    _, model = adapted(qwen25)
    model.save_pretrained(tmp_path)
    return tmp_path


def damage(adapter: Path, change: Callable[[Weights], Weights]) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def unchanged(model: torch.nn.Module, before: Weights) -> bool:
    now = model.state_dict()
    return all(torch.equal(now[name], value) for name, value in before.items())


def kept(model: torch.nn.Module) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("fault", DAMAGE)
@pytest.mark.parametrize("low", [False, True], ids=["", "low_cpu_mem_usage"])
def test_from_pretrained(qwen25: OmniBackbone, adapter: Path, fault: str, low: bool) -> None:
    change, expected = DAMAGE[fault]
    damage(adapter, change)
    head = qwen25.model.lm_head.weight.clone()
    own = fresh(qwen25)
    with pytest.raises(ValueError, match=expected):
        PeftModel.from_pretrained(own.model, str(adapter), ignore_mismatched_sizes=True, low_cpu_mem_usage=low)
    assert torch.equal(own.model.lm_head.weight, head)


@pytest.mark.parametrize("fault", DAMAGE)
def test_load_adapter_and_set_state_dict(qwen25: OmniBackbone, adapter: Path, fault: str) -> None:
    """Beside another adapter, in the place of one, and from a dictionary."""
    change, expected = DAMAGE[fault]
    damage(adapter, change)
    _, model = adapted(qwen25)
    before = kept(model)
    with pytest.raises(ValueError, match=expected):
        model.load_adapter(str(adapter), "default", ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match=expected):
        set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
    with pytest.raises(ValueError, match=expected.replace("default", "second")):
        model.load_adapter(str(adapter), "second", ignore_mismatched_sizes=True)
    assert unchanged(model, before) and model.active_adapters == ["default"]
    model.delete_adapter("second")


@torch.no_grad()
def test_weights_of_a_whole_head_do_not_reach_the_backbone(qwen25: OmniBackbone, adapter: Path) -> None:
    """Of the head's own shape: PEFT would take them without a word."""
    damage(adapter, lambda weights: weights | {HEAD: torch.zeros_like(qwen25.model.lm_head.weight)})
    own = fresh(qwen25)
    with pytest.raises(ValueError, match=r"belong to no parameter of it \(the first: lm_head\.weight\)"):
        PeftModel.from_pretrained(own.model, str(adapter))
    assert own.model.lm_head.weight.any()


def test_injected_layers_without_a_peft_model(qwen25: OmniBackbone, adapter: Path) -> None:
    own = fresh(qwen25)
    peft.inject_adapter_in_model(peft.PeftConfig.from_pretrained(str(adapter)), own.model)
    weights = load_file(adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="are not in the file"):
        set_peft_model_state_dict(own.model, dict(list(weights.items())[::2]))
    set_peft_model_state_dict(own.model, weights)
    found = own.model.state_dict()
    assert all(
        torch.equal(found[f"{name.removeprefix('base_model.model.')}.default"], v) for name, v in weights.items()
    )


@torch.no_grad()
def test_what_no_code_of_ours_sees(qwen25: OmniBackbone, adapter: Path) -> None:
    """With ``peft_type`` changed, PEFT never asks MoSE: it warns, and the model is the bare backbone (docs say so)."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"peft_type": "LORA", "target_modules": ["q_proj"]})
    )
    expected = qwen25.model(input_ids=IDS).logits
    with pytest.warns(UserWarning) as told:
        model = PeftModel.from_pretrained(fresh(qwen25).model, str(adapter))
    said = " ".join(str(warning.message) for warning in told)
    assert "Unexpected keyword arguments" in said and "Found missing adapter keys" in said
    assert torch.equal(model(input_ids=IDS).logits, expected)
