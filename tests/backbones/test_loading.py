"""Loading by name: checkpoints of both families through save, load, forward and generate; and what a user is told."""

import inspect
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mosear.backbones import OmniBackbone, load_backbone
from mosear.backbones.families import known_families
from mosear.backbones.tiny import EMBEDDED
from tests.helpers.run_if import RunIf
from tests.tiny_checkpoints import process_clips, random_media

CHAT = (
    "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>Which?<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def clip_inputs(backbone: OmniBackbone) -> dict:
    return process_clips(backbone.processor, [CHAT], [random_media(3)])


@torch.no_grad()
def logits(backbone: OmniBackbone) -> torch.Tensor:
    return backbone.model(**clip_inputs(backbone)).logits


def as_published(source: Path, directory: Path, model_type: str) -> Path:
    """The same thinker in the published layout: nested config, ``thinker.`` keys, and weights of a talker beside it."""
    directory.mkdir()
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.name != "config.json":
            (directory / path.name).write_bytes(path.read_bytes())
    tensors = {f"thinker.{key}": value for key, value in load_file(source / "model.safetensors").items()}
    save_file({**tensors, "talker.model.norm.weight": torch.ones(3)}, directory / "model.safetensors", {"format": "pt"})
    config = {"model_type": model_type, "thinker_config": json.loads((source / "config.json").read_text())}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_save_load_round_trip(backbone: OmniBackbone, tmp_path: Path) -> None:
    backbone.model.save_pretrained(tmp_path)
    backbone.processor.save_pretrained(tmp_path)
    again = load_backbone(str(tmp_path), dtype="fp32")
    assert again.family.name == backbone.family.name
    assert torch.equal(logits(again), logits(backbone))


def test_full_checkpoint_loads_the_thinker_alone(backbone: OmniBackbone, tmp_path: Path) -> None:
    name = backbone.family.name
    directory = as_published(Path(backbone.name), tmp_path / "full", name)
    loaded = load_backbone(str(directory), dtype="fp32")
    assert not any("talker" in key for key in loaded.model.state_dict())
    assert torch.equal(logits(loaded), logits(backbone))
    _, info = known_families()[name].model_class().from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert all(key.startswith("talker.") for key in info["unexpected_keys"])


def test_generate(backbone: OmniBackbone) -> None:
    inputs = clip_inputs(backbone)
    tokens = backbone.model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    prompt = inputs["input_ids"].shape[1]
    assert tokens.shape == (1, prompt + 5)
    assert torch.equal(tokens[:, :prompt], inputs["input_ids"])
    with torch.no_grad():  # greedy by hand, without a cache
        full = backbone.model(**{**inputs, "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}).logits
    end = backbone.processor.tokenizer.eos_token_id
    expected = full[0, prompt - 1 : -1].index_fill(-1, torch.tensor([end]), -torch.inf).argmax(-1)
    assert torch.equal(tokens[0, prompt:], expected)


def test_frozen_and_in_eval_mode(backbone: OmniBackbone) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    backbone.model.train()
    backbone.towers_eval()
    try:
        towers = [backbone.model.get_submodule(path) for path in backbone.family.tower_paths]
        assert not any(module.training for tower in towers for module in tower.modules())
        assert backbone.language_model.training
    finally:
        backbone.model.eval()


def test_parts_are_where_the_family_says(backbone: OmniBackbone) -> None:
    vocabulary, hidden = backbone.model.get_input_embeddings().weight.shape
    assert backbone.lm_head(torch.zeros(1, hidden)).shape == (1, vocabulary)
    assert backbone.language_model.embed_tokens is backbone.model.get_input_embeddings()
    assert (backbone.device.type, backbone.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_dtype(qwen25_dir: Path, dtype: str, expected: torch.dtype) -> None:
    assert load_backbone(str(qwen25_dir), dtype=dtype).dtype == expected


def test_bfloat16_is_the_default(qwen25_dir: Path) -> None:
    assert load_backbone(str(qwen25_dir)).dtype == torch.bfloat16


def test_attention_implementation(qwen25_dir: Path) -> None:
    backbone = load_backbone(str(qwen25_dir), attn_implementation="eager")
    assert backbone.language_model.config._attn_implementation == "eager"


def test_remote_code_is_off_by_default() -> None:
    assert inspect.signature(load_backbone).parameters["trust_remote_code"].default is False


def test_code_beside_a_checkpoint_does_not_run(qwen25_dir: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    directory = as_published(qwen25_dir, tmp_path / "full", "unheard_of")
    config = json.loads((directory / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "trap.Config"}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "trap.py").write_text(f"open({str(witness)!r}, 'w').close()\nclass Config: pass\n")
    with pytest.raises(ValueError, match="Unknown backbone family"):
        load_backbone(str(directory))
    assert not witness.exists()


@pytest.mark.parametrize("model_type", ["llama", "unheard_of", None])
def test_unknown_family(tmp_path: Path, model_type: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type} if model_type else {}))
    with pytest.raises(ValueError, match=rf"model_type={model_type!r}.*qwen2_5_omni.*qwen3_omni_moe"):
        load_backbone(str(tmp_path))


def test_not_a_checkpoint_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_backbone(str(tmp_path))
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_backbone(__file__)


def test_unknown_embedded_name() -> None:
    with pytest.raises(ValueError, match=f"tiny-omnibus.*{EMBEDDED[0]}, {EMBEDDED[1]}"):
        load_backbone("tiny-omnibus")


def test_nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"No backbone found for 'nobody/nothing'.*tiny-omni"):
        load_backbone("nobody/nothing")


def test_bad_dtype() -> None:
    with pytest.raises(ValueError, match=r"dtype='float32' is not one of bf16, fp16, fp32"):
        load_backbone("tiny-omni", dtype="float32")


def test_bad_quantization() -> None:
    with pytest.raises(ValueError, match=r"quantization='int8' is not supported.*'nf4'"):
        load_backbone("tiny-omni", quantization="int8")


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantization_without_bitsandbytes(qwen25_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install 'mosear\[quant\]'"):
        load_backbone(str(qwen25_dir), quantization="nf4")


@RunIf(bitsandbytes=True)
def test_nf4_quantizes_the_language_model_alone(qwen25_dir: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    backbone = load_backbone(str(qwen25_dir), quantization="nf4")
    paths = {name for name, module in backbone.model.named_modules() if isinstance(module, Linear4bit)}
    assert paths and all(path.startswith("model.language_model.layers.") for path in paths)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_checkpoints(name: str) -> None:
    weights = Path(load_backbone.__code__.co_filename).parent / "tiny" / "weights" / name
    if not weights.is_dir():
        pytest.skip(f"{name} has not been trained yet")
    with safe_open(weights / "model.safetensors", "pt") as file:
        assert not any("talker" in key for key in file.keys())  # noqa: SIM118 - not a dict
    assert (weights / "model.safetensors").stat().st_size <= 8 * 2**20
    assert logits(load_backbone(name)).isfinite().all()
