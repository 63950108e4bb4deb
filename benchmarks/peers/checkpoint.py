"""Random Qwen2.5-Omni checkpoints in the published layout, which every system of the comparison loads.

Processor settings, chat template and weights' names are those of the published checkpoints (a 300 s window of the mel
extractor included); the tokenizer is a small one with the published special tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosear.backbones.tiny.build import CHAT_TEMPLATE, thinker_config, train_tokenizer
from mosear.backbones.tiny.export import export_checkpoint
from mosear.data.prompt import Prompt
from mosear.data.synthetic.transcripts import all_texts

if TYPE_CHECKING:
    from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerConfig

SYSTEM = "You are a helpful assistant."
"""The system message that both peers put before every prompt of this family."""

PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 3584 * 3584}
"""As published: a frame between these sizes is only rounded to multiples of 28 pixels."""

AUDIO_WINDOW = 300
"""Seconds, as published: who pads, pads each sound to this length."""


@dataclass(frozen=True)
class Size:
    """Sizes of a thinker.

    Attributes:
        hidden: of the decoder.
        layers: of the decoder.
        parts: changes to the embedded backbone's configuration, by part.
    """

    hidden: int
    layers: int
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SIZES = {
    "tiny": Size(hidden=96, layers=4),
    "mid": Size(
        hidden=768,
        layers=12,
        parts={
            "text_config": {
                "intermediate_size": 2048,
                "num_attention_heads": 12,
                "num_key_value_heads": 2,
                "vocab_size": 8192,  # the head then has the share of the weights that it has in the 3B checkpoint
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
            },
            "vision_config": {
                "depth": 8,
                "hidden_size": 256,
                "intermediate_size": 1024,
                "fullatt_block_indexes": [3, 7],
                "out_hidden_size": 768,
            },
            "audio_config": {
                "encoder_layers": 6,
                "encoder_ffn_dim": 1024,
                "d_model": 256,
                "output_dim": 768,
            },
        },
    ),
}


def save_checkpoint(directory: Path, size: Size, *, audio_window: int = AUDIO_WINDOW, seed: int = 0) -> Path:
    """Write a complete checkpoint with random weights, in float32.

    Args:
        directory: where to; must not exist, or be empty.
        size: of the thinker.
        audio_window: seconds of the mel extractor's window.
        seed: of the weights.
    """
    import torch
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    processor = build_processor(audio_window)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(configuration(processor, size)).float()
    awaken(model)
    with tempfile.TemporaryDirectory() as thinker:
        model.save_pretrained(thinker)
        processor.save_pretrained(thinker)
        return export_checkpoint(directory, name=thinker, dtype="fp32", seed=seed)


def awaken(model: Any) -> None:
    """Scale matrices to a standard deviation of n^-1/2 for n inputs.

    With transformers' 0.02 a network of these widths hardly reacts to its input, and equal losses would say little
    about equal inputs.
    """
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                inputs = parameter[0].numel()
                parameter.mul_(inputs**-0.5 / float(parameter.std()))


def configuration(processor: Qwen2_5OmniProcessor, size: Size) -> Qwen2_5OmniThinkerConfig:
    """The embedded backbone's configuration at another size."""
    from transformers import Qwen2_5OmniThinkerConfig

    settings = thinker_config(processor, hidden=size.hidden, layers=size.layers).to_dict()
    for part, changes in size.parts.items():
        settings[part] = {**settings[part], **changes}
    return Qwen2_5OmniThinkerConfig(**settings)


def build_processor(audio_window: int = AUDIO_WINDOW) -> Qwen2_5OmniProcessor:
    """The real processor with published settings and a small tokenizer."""
    from transformers import Qwen2_5OmniProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor, WhisperFeatureExtractor

    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=PIXELS),
        video_processor=Qwen2VLVideoProcessor(size=PIXELS, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, sampling_rate=16000, chunk_length=audio_window, return_attention_mask=True
        ),
        tokenizer=train_tokenizer(tokenizer_texts()),
        chat_template=with_system(CHAT_TEMPLATE),
    )


def with_system(template: str) -> str:
    """A chat template that begins with the default system message where a conversation brings none."""
    return (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}" + template
    )


def tokenizer_texts() -> list[str]:
    """What the tokenizer is trained on: prompts with training transcripts, labels, roles."""
    prompt = Prompt()
    texts = [prompt.user_text(text)[0] for text in all_texts()]
    roles = [f"system\n{SYSTEM}\nuser\nassistant\n"]
    return texts + [f"{role}\n{label}" for role in roles for label in prompt.labels] * 200
