"""Builds the untrained tiny Qwen2.5-Omni thinker and its real processor (no network, deterministic).

The classes are transformers' own; only the sizes are small. The tokenizer is a byte-level BPE trained on the texts of
the synthetic corpus (training templates only), with the special tokens of Qwen2.5-Omni.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
    )

SPECIAL_TOKENS = {
    "pad_token": "<|endoftext|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}

# As in the published checkpoints, but without the default system message: a prompt of the tiny backbone stays short.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

HIDDEN = 96
FRAME_SIZE = 56
AUDIO_SECONDS = 30


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1200) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE and wrap it as a ``Qwen2TokenizerFast``."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.BPE(unk_token=None, fuse_unk=False, byte_fallback=False))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return wrapped_tokenizer(core)


def wrapped_tokenizer(core: Tokenizer) -> PreTrainedTokenizerFast:
    """A trained BPE as a ``Qwen2TokenizerFast``."""
    from transformers import AutoTokenizer  # noqa: F401 - registers the lazy module
    from transformers.models.qwen2 import Qwen2TokenizerFast

    media = {k: v for k, v in SPECIAL_TOKENS.items() if k not in ("pad_token", "im_start", "im_end")}
    return Qwen2TokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=media,
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
        model_max_length=32768,
    )


def build_processor(texts: Iterable[str]) -> Qwen2_5OmniProcessor:
    """The real processor: Qwen2-VL video and image processors, Whisper mel extractor, byte-level BPE."""
    return processor_around(train_tokenizer(texts))


def processor_around(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5OmniProcessor:
    """The processor with this tokenizer."""
    from transformers import Qwen2_5OmniProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor, WhisperFeatureExtractor

    size = {"shortest_edge": FRAME_SIZE**2, "longest_edge": FRAME_SIZE**2}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, sampling_rate=16000, chunk_length=AUDIO_SECONDS, return_attention_mask=True
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def thinker_config(
    processor: Qwen2_5OmniProcessor, *, hidden: int = HIDDEN, layers: int = 4
) -> Qwen2_5OmniThinkerConfig:
    """A Qwen2.5-Omni thinker config of 1 to 3 M parameters whose special ids are the tokenizer's."""
    from transformers import Qwen2_5OmniThinkerConfig

    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
    head_dim = 16
    return Qwen2_5OmniThinkerConfig(
        audio_config={
            "num_mel_bins": 128,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 2 * hidden,
            "d_model": hidden,
            "n_window": 100,
            "output_dim": hidden,
            "max_source_positions": 1500,
        },
        vision_config={
            "depth": 2,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_heads": 4,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "out_hidden_size": hidden,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // head_dim,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "pad_token_id": ids["pad_token"],
            "eos_token_id": ids["im_end"],
            "bos_token_id": None,
            "tie_word_embeddings": False,
        },
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        user_token_id=tokenizer.convert_tokens_to_ids("user"),
        pad_token_id=ids["pad_token"],
        eos_token_id=ids["im_end"],
        tie_word_embeddings=False,
    )


def build_thinker(
    processor: Qwen2_5OmniProcessor, *, seed: int = 0, **sizes: int
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A randomly initialised thinker in float32; the caller's RNG state is untouched."""
    import torch
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Qwen2_5OmniThinkerForConditionalGeneration = Qwen2_5OmniThinkerForConditionalGeneration(
            thinker_config(processor, **sizes)
        )
    return model.float()
