"""Saves an embedded backbone as a complete Qwen2.5-Omni checkpoint: ``python -m mosear.backbones.tiny.export DIR``.

The directory has the published layout (``thinker.*``, ``talker.*`` and ``token2wav.*`` weights, processor files with
the chat template, ``generation_config.json``, ``spk_dict.pt``), so transformers' Auto classes, and trainers that expect
one of the published checkpoints, load it as they load those.

Only the thinker is trained. Talker and token2wav are as small as their classes allow and randomly initialised: they
make the checkpoint complete and produce noise, not speech.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mosear.backbones.tiny import EMBEDDED

if TYPE_CHECKING:
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    from mosear.backbones.backbone import OmniBackbone

SPEAKERS = ("Chelsie", "Ethan")
REFERENCE_FRAMES = 24
# The published vocabulary of the talker: transformers' `generate` has its end tokens (8292, 8294) as default arguments.
CODEC_VOCABULARY = 8448


def export_checkpoint(
    directory: str | Path,
    *,
    name: str = "tiny-omni",
    dtype: Literal["bf16", "fp32"] = "bf16",
    seed: int = 0,
) -> Path:
    """Write a complete checkpoint.

    Args:
        directory: where to; must not exist, or be empty.
        name: an embedded backbone, or a directory with a Qwen2.5-Omni thinker of tiny size.
        dtype: floating type of thinker and talker (token2wav is float32 in every published checkpoint).
        seed: of the untrained parts.

    Returns:
        The directory.

    Raises:
        ValueError: if the directory is taken, or ``name`` is not a Qwen2.5-Omni thinker.
    """
    from mosear.backbones.loading import load_backbone

    directory = Path(directory)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ValueError(f"{directory} exists and is not an empty directory. Remove it, or export to another one.")
    backbone = load_backbone(name, dtype=dtype)
    if backbone.family.name != "qwen2_5_omni":
        raise ValueError(f"{name!r} is of family {backbone.family.name}; only qwen2_5_omni thinkers can be exported.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        _write(backbone, Path(scratch) / "checkpoint", seed)
        if directory.exists():
            directory.rmdir()
        os.replace(Path(scratch) / "checkpoint", directory)
    return directory


def full_model(backbone: OmniBackbone, seed: int = 0) -> Qwen2_5OmniForConditionalGeneration:
    """The backbone's thinker beside an untrained talker and token2wav; the caller's RNG state is untouched."""
    import torch
    from transformers import Qwen2_5OmniForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5OmniForConditionalGeneration(full_config(backbone))
    model.to(backbone.dtype)
    model.token2wav.float()
    model.thinker.load_state_dict(backbone.model.state_dict())
    return model.eval()


def full_config(backbone: OmniBackbone) -> Qwen2_5OmniConfig:
    """The thinker's config with the smallest talker and token2wav that fit it."""
    from transformers import Qwen2_5OmniConfig

    return Qwen2_5OmniConfig(
        thinker_config=backbone.model.config.to_dict(),
        talker_config=_talker_config(backbone),
        token2wav_config=_token2wav_config(),
    )


def speakers(model: Qwen2_5OmniForConditionalGeneration, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Voices in the shape of the published ``spk_dict.pt``, with random content.

    Returns:
        Per speaker ``bos_token`` (id in the thinker's vocabulary), ``cond [1, speaker dim]`` and
        ``ref_mel [1, frames, mel bins]``.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    dit = model.config.token2wav_config.dit_config
    return {
        speaker: {
            "bos_token": model.config.talker_config.tts_text_start_token_id,
            "cond": torch.randn(1, dit.enc_emb_dim, generator=generator),
            "ref_mel": torch.randn(1, REFERENCE_FRAMES, dit.mel_dim, generator=generator),
        }
        for speaker in SPEAKERS
    }


def _write(backbone: OmniBackbone, directory: Path, seed: int) -> None:
    import torch
    from transformers import GenerationConfig

    model = full_model(backbone, seed)
    tokenizer = backbone.processor.tokenizer
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(directory)
    backbone.processor.save_pretrained(directory)
    torch.save(speakers(model, seed), directory / "spk_dict.pt")


def _talker_config(backbone: OmniBackbone) -> dict[str, Any]:
    """The talker shares the thinker's special ids and speaks its text through three of them."""
    config, tokenizer = backbone.model.config, backbone.processor.tokenizer
    shared = (
        "audio_token_index",
        "image_token_index",
        "video_token_index",
        "audio_start_token_id",
        "audio_end_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
        "position_id_per_seconds",
        "seconds_per_chunk",
    )
    return {
        **{name: getattr(config, name) for name in shared},
        "tts_text_start_token_id": tokenizer.convert_tokens_to_ids("<|im_start|>"),
        "tts_text_end_token_id": tokenizer.eos_token_id,
        "tts_text_pad_token_id": tokenizer.pad_token_id,
        "vocab_size": CODEC_VOCABULARY,
        "embedding_size": config.text_config.hidden_size,  # thinker states are added to codec embeddings
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "pad_token_id": 8292,
    }


def _token2wav_config() -> dict[str, Any]:
    return {
        "dit_config": {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 16,
            "ff_mult": 1,
            "emb_dim": 8,
            "num_embeds": CODEC_VOCABULARY,  # an untrained talker may say any code
            "look_ahead_layers": [0],
            "look_backward_layers": [0],
            "enc_emb_dim": 16,
            "enc_dim": 16,
            "enc_channels": [16, 16, 16, 16, 48],
            "enc_attention_channels": 8,
            "enc_se_channels": 8,
        },
        "bigvgan_config": {"upsample_initial_channel": 64},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="checkpoint directory to write; must not exist, or be empty")
    parser.add_argument("--name", default="tiny-omni", help=f"embedded backbone ({', '.join(EMBEDDED)})")
    parser.add_argument("--source", type=Path, help="export the thinker in this directory instead of an embedded one")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    args = parser.parse_args()
    try:
        written = export_checkpoint(args.directory, name=str(args.source or args.name), dtype=args.dtype)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    print(f"{written}: " + ", ".join(sorted(path.name for path in written.iterdir())))


if __name__ == "__main__":
    main()
