"""MoSE as a citizen of PEFT: registration, saving, switching, targets, 4-bit layers."""

from copy import deepcopy
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

from mosear.backbones.backbone import OmniBackbone
from mosear.experts import MoSEConfig, MoSEModel
from mosear.experts.hooks import mose_hooks
from mosear.experts.layer import MoSELinear
from tests.helpers import processes
from tests.helpers.mose_models import ATTENTION, adapted, trained
from tests.helpers.omni_samples import MIXED, fresh, make_batch
from tests.helpers.run_if import RunIf

CHANGED = "PEFT changed where it keeps its methods; adapt mosear/experts/register.py. "


def test_peft_still_looks_methods_up_in_plain_tables() -> None:
    """The guard: we register without an entry in PEFT's closed enum, which works because members are strings."""
    from peft import mapping
    from peft.utils import PeftType

    assert issubclass(PeftType, str), CHANGED + "PeftType is no longer a string enum."
    assert "MOSE" not in PeftType.__members__, CHANGED + "It has a method called MOSE now: ours needs another name."
    for name in ("CONFIG", "TUNER", "PREFIX"):
        table = getattr(mapping, f"PEFT_TYPE_TO_{name}_MAPPING", None)
        assert type(table) is dict, CHANGED + f"peft.mapping.PEFT_TYPE_TO_{name}_MAPPING is {type(table).__name__}."
        assert PeftType.LORA in table and "LORA" in table, CHANGED + f"{name} is no longer keyed by the type's string."
        assert "MOSE" in table, f"importing mosear.experts did not register MoSE in {name}"
    assert mapping.PEFT_TYPE_TO_TUNER_MAPPING["MOSE"] is MoSEModel
    assert isinstance(peft.get_peft_config({"peft_type": "MOSE"}), MoSEConfig)


@torch.no_grad()
def logits(model: torch.nn.Module, backbone: OmniBackbone) -> torch.Tensor:
    return model(**make_batch(backbone, MIXED[:3]).model_inputs(), use_cache=False).logits


@pytest.mark.parametrize("experts", [1, 3])
def test_save_and_load(backbone: OmniBackbone, tmp_path: Path, experts: int) -> None:
    own, model = adapted(backbone, experts_per_group=experts)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == len(trained(model)) and all("mose_" in name for name in saved)
    assert isinstance(PeftConfig.from_pretrained(tmp_path), MoSEConfig)
    loaded = PeftModel.from_pretrained(fresh(backbone).model, tmp_path)
    assert torch.equal(logits(loaded, backbone), logits(model, own))
    assert trained(loaded) == {}


def test_load_in_another_process(qwen25: OmniBackbone, qwen25_dir: Path, tmp_path: Path) -> None:
    _, model = adapted(qwen25)
    model.save_pretrained(tmp_path)
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        torch.save({"ids": ids, "logits": model(input_ids=ids).logits}, tmp_path / "expected.pt")
    code = (
        "import sys, torch, peft, mosear.experts\n"
        "from mosear.backbones import load_backbone\n"
        "backbone, adapter = sys.argv[1:]\n"
        "model = peft.PeftModel.from_pretrained(load_backbone(backbone, dtype='fp32').model, adapter)\n"
        "saved = torch.load(adapter + '/expected.pt')\n"
        "with torch.no_grad(): torch.testing.assert_close(model(input_ids=saved['ids']).logits, saved['logits'])"
    )
    (tmp_path / "script.py").write_text(code)
    done = processes.run([tmp_path / "script.py", qwen25_dir, tmp_path])
    assert done.returncode == 0, done.stderr


def test_switching_off_unloading_and_merging(backbone: OmniBackbone) -> None:
    own, model = adapted(backbone)
    base = logits(fresh(backbone).model, backbone)
    on = logits(model, own)
    with model.disable_adapter():
        assert torch.equal(logits(model, own), base)
    assert torch.equal(logits(model, own), on) and not torch.allclose(on, base, atol=1e-2)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match="cannot be merged"):
            merge()
    bare = model.unload()
    assert torch.equal(logits(bare, own), base)
    assert mose_hooks(bare) is None and not any("mose" in name for name, _ in bare.named_modules())


def test_copies_are_independent(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    before = logits(model, own)
    twin = deepcopy(model)
    assert torch.equal(logits(twin, own), before)
    with torch.no_grad():
        for parameter in trained(twin).values():
            parameter.mul_(2)
    assert torch.equal(logits(model, own), before) and not torch.equal(logits(twin, own), before)


def test_two_adapters_one_active(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    first, base = logits(model, own), logits(qwen25.model, qwen25)
    model.add_adapter("second", MoSEConfig(r=3, experts_per_group=2, target_modules=["q_proj"]))
    assert torch.equal(logits(model, own), first)
    model.set_adapter("second")
    assert torch.equal(logits(model, own), base)
    with pytest.raises(ValueError, match="one adapter at a time"):
        model.base_model.set_adapter(["default", "second"])
    model.set_adapter("default")
    assert torch.equal(logits(model, own), first)


# -- adapters that come and go ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", ["learned", "uniform"])
def test_a_deleted_adapter_leaves_nothing_behind(qwen25: OmniBackbone, gate: str) -> None:
    own, model = adapted(qwen25, gate=gate, experts_per_group=2)
    model.delete_adapter("default")
    assert not [name for name in model.state_dict() if "mose_" in name]
    assert mose_hooks(own.model).configs == {} and torch.equal(logits(own.model, own), logits(qwen25.model, qwen25))
    model.add_adapter("default", MoSEConfig(r=3, alpha=6))
    model.set_adapter("default")
    gates = [value for name, value in model.state_dict().items() if "mose_W" in name]
    assert gates and not any(value.any() for value in gates)
    assert torch.equal(logits(model, own), logits(qwen25.model, qwen25))


def test_deleting_the_active_adapter_activates_another_everywhere(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    model.add_adapter("second", MoSEConfig(r=3, target_modules=["o_proj"], layers_to_transform=[2]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".second" in name or name.endswith("second"):
                torch.nn.init.normal_(parameter, std=0.3)
    model.set_adapter("second")
    expected = logits(model, own)
    model.set_adapter("default")
    model.delete_adapter("default")
    assert model.active_adapters == ["second"] and torch.equal(logits(model, own), expected)
    assert all(gate.active_name() == "second" for gate in mose_hooks(model).gates.values())


@pytest.mark.filterwarnings(
    "ignore:You are trying to modify a model with PEFT for a second time", "ignore:Already found"
)
def test_a_second_get_peft_model_starts_anew(qwen25: OmniBackbone) -> None:
    own, _ = adapted(qwen25, experts_per_group=2)
    again = peft.get_peft_model(own.model, MoSEConfig(r=5, gate_norm=True, target_modules=["q_proj"])).eval()
    state = {name for name in again.state_dict() if ".mose_" in name}
    assert not any("mose_R" in name or "k_proj" in name for name in state)
    assert torch.equal(logits(again, own), logits(qwen25.model, qwen25))
    assert mose_hooks(again).active_config() is again.peft_config["default"]
    assert all(gate.normalised == {"default": True} for gate in mose_hooks(again).gates.values())


# -- targets -------------------------------------------------------------------------------------------------------


def targets(backbone: OmniBackbone, **config) -> set[str]:
    own = fresh(backbone)
    peft.get_peft_model(own.model, MoSEConfig(r=2, **config))
    return {name for name, module in own.model.named_modules() if isinstance(module, MoSELinear)}


def test_all_linear_means_the_decoder(backbone: OmniBackbone) -> None:
    found = targets(backbone)
    assert all(name.startswith("model.language_model.layers.") for name in found)
    assert {name.rpartition(".")[2] for name in found} >= set(ATTENTION)
    config = MoSEConfig(r=2)
    peft.get_peft_model(fresh(backbone).model, config)
    assert config.target_modules == "all-linear"


@pytest.mark.parametrize("wanted", [["q_proj", "v_proj"], r".*self_attn\.(q|v)_proj"], ids=["names", "regex"])
def test_names_and_regex_stay_in_the_decoder(backbone: OmniBackbone, wanted) -> None:
    expected = {f"model.language_model.layers.{i}.self_attn.{p}" for i in (0, 2) for p in ("q_proj", "v_proj")}
    assert targets(backbone, target_modules=wanted, layers_to_transform=[0, 2]) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"target_modules": ["nothing"]}, "matches no linear layer under model.language_model.layers"),
        ({"target_modules": ["fc1"]}, "towers and head stay frozen"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, "exclude_modules=.*may have removed"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [7]}, r"layers_to_transform: \[7\]"),
    ],
)
def test_targets_that_match_nothing(qwen25: OmniBackbone, config, expected: str) -> None:
    own = fresh(qwen25)
    with pytest.raises(ValueError, match=expected):
        peft.get_peft_model(own.model, MoSEConfig(r=2, **config))


def test_a_name_that_matches_nothing_is_a_warning(qwen25: OmniBackbone) -> None:
    with pytest.warns(UserWarning, match="kv_proj match no linear layer"):
        targets(qwen25, target_modules=["q_proj", "kv_proj"])


@pytest.mark.parametrize("wanted", [["q_proj", "down_proj"], ["q_proj", "gate_proj"], r".*experts.*", r".*_proj"])
def test_stacked_experts_are_refused(qwen3: OmniBackbone, wanted) -> None:
    with pytest.raises(ValueError, match="asks for the experts of a sparse model"):
        targets(qwen3, target_modules=wanted)


def test_fused_families_and_other_models_are_refused(qwen25: OmniBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="MoSE works on the thinker"):
        peft.get_peft_model(fresh(qwen25).model.model, MoSEConfig(r=2))
    monkeypatch.setattr(type(qwen25.family), "separate_modalities", False)
    with pytest.raises(ValueError, match="fused"):
        targets(qwen25)


def test_every_wrong_setting_is_named() -> None:
    with pytest.raises(ValueError) as error:
        MoSEConfig(r=0, dropout=1.0, share_a="none", gate="soft", kl_weight=-1, target_modules=[])
    for part in ("r=0", "dropout=1.0", "share_a='none'", "gate='soft'", "kl_weight=-1", "target_modules=[]"):
        assert part in str(error.value)


# -- 4-bit ---------------------------------------------------------------------------------------------------------


@RunIf(bitsandbytes=True)
def test_four_bit_layers(qwen25_dir: Path) -> None:
    from mosear.backbones import load_backbone

    own = load_backbone(str(qwen25_dir), quantization="nf4", dtype="bf16")
    base = logits(own.model, own)
    model = peft.get_peft_model(own.model, MoSEConfig(r=2)).eval()
    assert type(own.language_model.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"
    assert torch.equal(logits(model, own), base)
    model(**make_batch(own, MIXED[:3]).model_inputs(), use_cache=False).logits.float().square().mean().backward()
    assert all(p.grad is not None for p in trained(model).values())
