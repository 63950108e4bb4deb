"""Decoders of the published sizes with random weights, for the benchmarks that time layers of one."""

from __future__ import annotations

from typing import Any

import torch
import transformers


def random_thinker(place: dict[str, Any], **text: Any) -> Any:
    """A frozen thinker with as good as no towers and vocabulary; always the same weights.

    Args:
        place: device and floating type.
        text: of the decoder's configuration; the other values are those of Qwen2.5-Omni-7B.
    """
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 1}
    audio = {"encoder_layers": 1, "d_model": 64, "encoder_attention_heads": 1, "encoder_ffn_dim": 64}
    text = {"vocab_size": 64, "pad_token_id": 0, **text}
    config = transformers.Qwen2_5OmniThinkerConfig(audio_config=audio, vision_config=vision, text_config=text)
    torch.manual_seed(0)
    thinker = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)
    return thinker.to(**place).requires_grad_(False)
