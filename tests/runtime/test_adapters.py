"""Loading an adapter: files that do not belong together, or to the backbone, are refused in a sentence."""

import json
import shutil
import subprocess
import time
import warnings
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from mosear.backbones import OmniBackbone, load_backbone
from mosear.backbones.identity import FILE, describe, identity, save_identity
from mosear.runtime.adapter_files import AdapterError
from mosear.runtime.adapters import load_adapter
from tests.helpers import processes
from tests.helpers.mose_models import adapted
from tests.helpers.omni_samples import MIXED, fresh, inject_lora, make_batch
from tests.tiny_checkpoints import save_qwen25

ROOT = Path(__file__).parents[2]
EARLIER = ROOT / "tests" / "fixtures" / "earlier" / "run"
CATASTROPHE = r"(.*)*(.*)*(.*)*(.*)*_nothing"


@pytest.fixture
def adapter(qwen25: OmniBackbone, tmp_path: Path) -> Path:
    """As a run saves it."""
    own, model = adapted(qwen25)
    return saved(own, model, tmp_path / "adapter")


def saved(own: OmniBackbone, model: peft.PeftModel, directory: Path) -> Path:
    model.peft_config["default"].base_model_name_or_path = own.name
    model.save_pretrained(directory)
    save_identity(directory, own.name, identity(own))
    return directory


def change_weights(adapter: Path, change) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def change_config(adapter: Path, **changes) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_adapter_loads_to_the_last_bit(backbone: OmniBackbone, tmp_path: Path) -> None:
    own, model = adapted(backbone, experts_per_group=2)
    network = load_adapter(fresh(backbone), saved(own, model, tmp_path / "adapter"))
    inputs = make_batch(backbone, MIXED[:3]).model_inputs()
    with torch.no_grad():
        assert torch.equal(network(**inputs).logits, model(**inputs).logits)


def test_a_plain_lora_loads(qwen25: OmniBackbone, tmp_path: Path) -> None:
    own = fresh(qwen25)
    config = peft.LoraConfig(r=2, target_modules=r".*layers\.\d+\.self_attn\.(q|v)_proj", init_lora_weights=False)
    model = peft.get_peft_model(own.model, config).eval()
    network = load_adapter(fresh(qwen25), saved(own, model, tmp_path / "adapter"))
    inputs = make_batch(qwen25, MIXED[:2]).model_inputs()
    with torch.no_grad():
        assert torch.equal(network(**inputs).logits, model(**inputs).logits)


def halved(weights: dict) -> dict:
    return dict(list(weights.items())[::2])


def poisoned(weights: dict) -> dict:
    next(iter(weights.values())).view(-1)[0] = float("nan")
    return weights


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda weights: {f"old.{name}": value for name, value in weights.items()}, "belong to no parameter"),
        (halved, "parameters are not in the file"),
        (lambda weights: {k: v for k, v in weights.items() if "mose_W" not in k}, "mose_gate.mose_W"),
        (
            lambda weights: {k: v[:1].clone() if "mose_A" in k else v for k, v in weights.items()},
            r"is \(1, 96\), not \(6, 96\)",
        ),
        (poisoned, "1 of .* tensors hold NaN or infinity"),
        (lambda weights: {}, "holds no tensor"),
    ],
    ids=["renamed", "half", "no gates", "shapes", "NaN", "empty"],
)
def test_weights_that_do_not_match(qwen25: OmniBackbone, adapter: Path, change, expected: str) -> None:
    change_weights(adapter, change)
    with pytest.raises(AdapterError, match=expected):
        load_adapter(fresh(qwen25), adapter)


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"peft_type": "LORA"}, "not those of the adapter"),
        ({"peft_type": "NONE"}, "peft_type='NONE', which is no PEFT method"),
        ({"r": 4}, "have another shape"),
        ({"r": 10**6}, "r=1000000 is larger than every dimension"),
        ({"experts_per_group": 10**6}, "experts_per_group=1000000 is larger"),
        ({"r": "many"}, "settings that MOSE does not take"),
        ({"alpha": "much"}, "settings that MOSE does not take"),
        ({"target_modules": "(q_proj"}, "are not valid: .*unterminated"),
        ({"target_modules": ["nothing"]}, "does not fit the backbone: .*matches no linear layer"),
        ({"target_modules": ["q_proj"]}, "belong to no parameter"),
        ({"note": "x" * (1 << 20)}, "at most 1 MiB"),
    ],
)
def test_settings_that_do_not_match(qwen25: OmniBackbone, adapter: Path, changes, expected: str) -> None:
    change_config(adapter, **changes)
    with pytest.raises(AdapterError, match=expected):
        load_adapter(fresh(qwen25), adapter)


@pytest.mark.parametrize("method", ["MOSE", "LORA"])
def test_a_pattern_that_does_not_end_is_refused(
    qwen25: OmniBackbone, adapter: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosear.runtime.adapter_files.SECONDS", 1.0)
    change_config(adapter, target_modules=CATASTROPHE, peft_type=method)
    start = time.monotonic()
    with pytest.raises(AdapterError, match="do not end within 1 s"):
        load_adapter(fresh(qwen25), adapter)
    assert time.monotonic() - start < 30


def test_damaged_files(qwen25: OmniBackbone, adapter: Path) -> None:
    for name, content, expected in (
        ("adapter_config.json", b"{}", "peft_type=None"),
        ("adapter_config.json", b"[1]", "peft_type=None"),
        ("adapter_config.json", b"{", "is not JSON"),
        ("adapter_model.safetensors", (adapter / "adapter_model.safetensors").read_bytes()[:500], "cannot be read"),
        (FILE, b"{}", "is damaged"),
    ):
        before = (adapter / name).read_bytes()
        (adapter / name).write_bytes(content)
        with pytest.raises(AdapterError, match=expected):
            load_adapter(fresh(qwen25), adapter)
        (adapter / name).write_bytes(before)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="weights are missing"):
        load_adapter(fresh(qwen25), adapter)


# -- which backbone --------------------------------------------------------------------------------------------------


def test_weights_decide_not_the_name(qwen25: OmniBackbone, qwen25_dir: Path, adapter: Path, tmp_path: Path) -> None:
    """A copy elsewhere, in another precision, is the same backbone; others of its name or size are not."""
    copy = shutil.copytree(qwen25_dir, tmp_path / "copy")
    load_adapter(load_backbone(str(copy), dtype="bf16"), adapter)
    other = load_backbone(str(save_qwen25(tmp_path / "other", seed=1)), dtype="fp32")
    with pytest.raises(AdapterError, match=r"was trained on .*its weights differ \(embeddings\)"):
        load_adapter(replace(other, name=qwen25.name), adapter)
    deep = load_backbone(str(save_qwen25(tmp_path / "deep", layers=4)), dtype="fp32")
    with pytest.raises(AdapterError, match="num_hidden_layers is 4, not 3"):
        load_adapter(replace(deep, name=qwen25.name), adapter)


def test_an_adapter_of_before_goes_by_the_name(qwen25: OmniBackbone, adapter: Path) -> None:
    (adapter / FILE).unlink()
    with pytest.warns(UserWarning, match=r"has no mosear\.json .*the name alone: sizes and weights were not"):
        load_adapter(fresh(qwen25), adapter)
    with pytest.raises(AdapterError, match=r"was trained on .*, not on 'other'"):
        load_adapter(replace(fresh(qwen25), name="other"), adapter)


def test_an_adapter_of_before_gets_its_file(qwen25: OmniBackbone, adapter: Path, tmp_path: Path) -> None:
    """The command in the warning, as it stands there; afterwards the weights decide."""
    (adapter / FILE).unlink()
    with pytest.warns(UserWarning) as told:
        load_adapter(fresh(qwen25), adapter)
    (said,) = [text for w in told if "has no mosear.json" in (text := str(w.message))]
    code = said.partition('python -c "')[2].rstrip('"').replace("NAME_OR_DIRECTORY", qwen25.name)
    exec(code, {})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*has no mosear.json.*")
        load_adapter(fresh(qwen25), adapter)
    other = load_backbone(str(save_qwen25(tmp_path / "other", seed=1)), dtype="fp32")
    with pytest.raises(AdapterError, match="its weights differ"):
        load_adapter(replace(other, name=qwen25.name), adapter)
    with pytest.raises(ValueError, match=r"no adapter_config\.json"):
        describe(tmp_path / "nothing", qwen25.name)


def test_an_adapter_does_not_change_what_is_compared(qwen25: OmniBackbone) -> None:
    own, _ = adapted(qwen25)
    assert identity(own) == identity(qwen25)
    inject_lora(lora := fresh(qwen25), "q_proj")
    assert identity(lora) == identity(qwen25)


# -- commands ----------------------------------------------------------------------------------------------------------


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return processes.run(list(command))


def predict(run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return call("-m", "mosear", "predict", "clip.mp4", "--adapter", str(run), *options)


def test_commands_end_with_a_sentence(tmp_path: Path) -> None:
    run = Path(shutil.copytree(EARLIER, tmp_path / "run"))
    change_weights(run / "adapter", halved)
    few = [f"data.prepare.{name}_clips=1" for name in ("train", "val", "test")]
    options = [f"run={run}", f"hydra.run.dir={tmp_path / 'eval'}", f"data_dir={tmp_path}", "data.prepare.workers=1"]
    for done in (predict(run), call("eval.py", *options, *few)):
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert "The adapter in" in done.stderr and "are not in the file" in done.stderr


@pytest.mark.slow
def test_predict_with_another_backbone(tmp_path: Path) -> None:
    run = Path(shutil.copytree(EARLIER, tmp_path / "run"))
    done = predict(run, "--backbone", "tiny-omni-balanced")
    assert done.returncode == 2 and "was trained on 'tiny-omni', not on 'tiny-omni-balanced'" in done.stderr
    save_identity(run / "adapter", "tiny-omni", identity(load_backbone("tiny-omni", dtype="fp32")))
    from mosear.backbones.loading import source_of

    other = Path(shutil.copytree(source_of("tiny-omni-balanced"), tmp_path / "tiny-omni"))
    done = predict(run, "--backbone", str(other))
    assert done.returncode == 2 and "its weights differ" in done.stderr
    copy = Path(shutil.copytree(source_of("tiny-omni"), tmp_path / "copy"))
    done = predict(run, "--backbone", str(copy))
    assert done.returncode == 2 and "clip.mp4" in done.stderr and "trained on" not in done.stderr
