"""An exported checkpoint is a complete Qwen2.5-Omni checkpoint: everything that loads the published ones loads it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    AutoModelForTextToWaveform,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from mosear.backbones import OmniBackbone, load_backbone
from mosear.backbones.patches import project_patches_by_product
from mosear.backbones.tiny.export import SPEAKERS, export_checkpoint, main
from tests.tiny_checkpoints import process_clips, random_media

CHAT = "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>Which?<|im_end|>\n"


@pytest.fixture(scope="module")
def exported(qwen25_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint(tmp_path_factory.mktemp("export") / "full", name=str(qwen25_dir), dtype="fp32")


@pytest.fixture(scope="module")
def full(exported: Path) -> Qwen2_5OmniForConditionalGeneration:
    return Qwen2_5OmniForConditionalGeneration.from_pretrained(exported, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: PreTrainedModel, backbone: OmniBackbone) -> torch.Tensor:
    project_patches_by_product(model)  # as a backbone does: then sums are rounded alike
    return model.eval()(**process_clips(backbone.processor, [CHAT], [random_media(3)])).logits


def test_layout(exported: Path) -> None:
    assert json.loads((exported / "config.json").read_text())["model_type"] == "qwen2_5_omni"
    assert {
        "generation_config.json",
        "spk_dict.pt",
        "chat_template.jinja",
        "tokenizer.json",
        "processor_config.json",
    } <= {path.name for path in exported.iterdir()}
    with safe_open(exported / "model.safetensors", "pt") as file:
        keys = set(file.keys())
    assert {key.split(".")[0] for key in keys} == {"thinker", "talker", "token2wav"}
    # As the published checkpoints name them, whatever the installed transformers calls its modules.
    assert {key.split(".")[1] for key in keys if key.startswith("thinker.")} == {
        "audio_tower",
        "visual",
        "model",
        "lm_head",
    }
    assert "thinker.model.layers.0.self_attn.q_proj.weight" in keys


def test_auto_classes(exported: Path) -> None:
    assert isinstance(AutoConfig.from_pretrained(exported), Qwen2_5OmniConfig)
    assert isinstance(AutoProcessor.from_pretrained(exported), Qwen2_5OmniProcessor)
    assert AutoTokenizer.from_pretrained(exported).eos_token == "<|im_end|>"


@pytest.mark.parametrize("auto", [AutoModelForMultimodalLM, AutoModelForTextToWaveform])
def test_auto_models(exported: Path, qwen25: OmniBackbone, auto: type) -> None:
    model = auto.from_pretrained(exported)
    assert isinstance(model, Qwen2_5OmniForConditionalGeneration)
    assert torch.equal(logits(model.thinker, qwen25), logits(qwen25.model, qwen25))


def test_thinker_of_the_full_model(full: Qwen2_5OmniForConditionalGeneration, qwen25: OmniBackbone) -> None:
    assert torch.equal(logits(full.thinker, qwen25), logits(qwen25.model, qwen25))


def test_thinker_class(exported: Path, qwen25: OmniBackbone) -> None:
    model, info = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(exported, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(logits(model, qwen25), logits(qwen25.model, qwen25))


def test_load_backbone_takes_the_thinker_alone(exported: Path, qwen25: OmniBackbone) -> None:
    backbone = load_backbone(str(exported), dtype="fp32")
    assert set(backbone.model.state_dict()) == set(qwen25.model.state_dict())
    assert torch.equal(logits(backbone.model, backbone), logits(qwen25.model, qwen25))


def test_processor_and_chat_template_survive(exported: Path, qwen25: OmniBackbone) -> None:
    processor = AutoProcessor.from_pretrained(exported)
    assert processor.chat_template == qwen25.processor.chat_template
    ours, theirs = (process_clips(p, [CHAT], [random_media(3)]) for p in (processor, qwen25.processor))
    assert set(ours) == set(theirs)
    assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in ours)


def test_speakers(exported: Path) -> None:
    voices = torch.load(exported / "spk_dict.pt", weights_only=True)
    assert set(voices) == set(SPEAKERS)
    config = AutoConfig.from_pretrained(exported)
    dit = config.token2wav_config.dit_config
    for voice in voices.values():
        assert 0 <= voice["bos_token"] < config.thinker_config.text_config.vocab_size
        assert voice["cond"].shape == (1, dit.enc_emb_dim)
        assert voice["ref_mel"].ndim == 3 and voice["ref_mel"].shape[::2] == (1, dit.mel_dim)


def test_it_answers_and_speaks(full: Qwen2_5OmniForConditionalGeneration, qwen25: OmniBackbone) -> None:
    """With transformers' defaults for speaker and codec ids; the sound is noise, as nothing of it was trained."""
    chat = CHAT.replace(
        "<|vision_bos|><|VIDEO|><|vision_eos|>", ""
    )  # transformers 5.23 hands a video's pixels to the talker
    inputs = process_clips(qwen25.processor, [chat], [random_media(3, video=False)])
    text = full.generate(**inputs, generation_mode="text", thinker_max_new_tokens=4)
    spoken, sound = full.generate(**inputs, thinker_max_new_tokens=4, talker_max_new_tokens=6)
    assert torch.equal(text, spoken)
    assert sound.ndim == 1 and len(sound) > 0 and sound.isfinite().all()


def test_same_seed_same_file(exported: Path, qwen25_dir: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    again = export_checkpoint(tmp_path / "again", name=str(qwen25_dir), dtype="fp32")
    assert (again / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()
    assert torch.equal(torch.get_rng_state(), state)


def test_command_line(
    qwen25_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["export", str(tmp_path / "out"), "--source", str(qwen25_dir)])
    main()
    assert "spk_dict.pt" in capsys.readouterr().out
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.get_tensor("thinker.lm_head.weight").dtype == torch.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no temporary directory is left behind"
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "is not an empty directory" in capsys.readouterr().err


def test_only_its_own_family(qwen3_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="family qwen3_omni_moe"):
        export_checkpoint(tmp_path / "out", name=str(qwen3_dir))
    assert not (tmp_path / "out").exists()
