"""What else PEFT and transformers offer: it works with MoSE, or is refused in a sentence."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import peft
import pytest
import torch
from peft.utils.hotswap import hotswap_adapter

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.sequences import open_states, sequence_state
from mosear.experts import MoSEConfig
from tests.helpers.mose_models import adapted
from tests.helpers.omni_samples import fresh

IDS = torch.arange(40, 60)[None]
KNOWN = "; import peft; assert peft.get_peft_config({'peft_type': 'MOSE'}).r == 16"
EACH_ANEW = """
import os, sys, torch, transformers
for code in sys.argv[1:]:
    assert not {"mosear", "peft"} & set(sys.modules)
    if (child := os.fork()) == 0:
        exec(code)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0, code
"""


def test_importing_mosear_is_enough() -> None:
    """With what PEFT imports at hand, processes differ in what they import of PEFT and mosear, and when."""
    ways = (
        "import importlib.util, mosear; importlib.util.find_spec('peft')",
        "import peft, mosear",
        "import mosear.experts",
    )
    done = subprocess.run(
        [sys.executable, "-c", EACH_ANEW, *(way + KNOWN for way in ways)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_mosear_is_enough_and_imports_no_torch() -> None:
    code = "import sys, mosear; assert 'torch' not in sys.modules" + KNOWN
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@torch.no_grad()
def test_low_cpu_mem_usage(qwen25: OmniBackbone, tmp_path: Path) -> None:
    _, model = adapted(qwen25, experts_per_group=2)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(fresh(qwen25).model, tmp_path, low_cpu_mem_usage=True)
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_the_method_s_name_is_like_a_member_of_the_enum(qwen25: OmniBackbone) -> None:
    method = MoSEConfig().peft_type
    assert method == "MOSE" and method.value == method.name == "MOSE" and type(method.value) is str
    assert deepcopy(method) == method and f"{method}" == "MOSE"
    _, model = adapted(qwen25)
    status = model.get_model_status()
    assert status.peft_types == {"default": "MOSE"} and status.active_adapters == ["default"]


@pytest.mark.parametrize("setting", [{"bias": "all"}, {"modules_to_save": ["lm_head"]}])
def test_settings_that_would_train_the_backbone_are_refused(setting) -> None:
    with pytest.raises(ValueError, match="MoSE trains no weight of the backbone"):
        MoSEConfig(**setting)
    assert not {"bias", "modules_to_save"} & MoSEConfig(bias="none", modules_to_save=None).to_dict().keys()


@pytest.mark.slow
def test_a_state_of_a_compiled_model_is_the_thinker_s(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    for given in (model, own.model):
        with sequence_state(torch.compile(given, backend="eager")) as state:
            assert open_states(own.model) == [state]


def test_what_is_refused(qwen25: OmniBackbone, tmp_path: Path) -> None:
    _, model = adapted(qwen25)
    model.save_pretrained(tmp_path)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="one adapter for the whole batch"):
            call(input_ids=IDS, adapter_names=["default"])
    with pytest.raises(ValueError, match="cannot be combined"):
        model.add_weighted_adapter(["default"], [1.0], "sum")
    with pytest.raises(ValueError, match="'MOSE' is not compatible"):
        peft.get_peft_model(fresh(qwen25).model, MoSEConfig(r=2), mixed=True)
    with pytest.raises(ValueError, match="MOSE was passed"):
        hotswap_adapter(model, str(tmp_path), adapter_name="default", torch_device="cpu")
    with pytest.raises(ValueError, match=r"Use peft\.PeftModel\.from_pretrained"):
        fresh(qwen25).model.load_adapter(str(tmp_path))
