"""Tiny checkpoints of both families with random weights: transformers' own classes with small sizes, really saved."""

from pathlib import Path

from mosear.backbones.tiny.build import CHAT_TEMPLATE, SPECIAL_TOKENS, build_processor, build_thinker, train_tokenizer
from mosear.data.prompt import Prompt

HIDDEN = 32
WAKE = 5.0
"""Factor on the initial weights: with transformers' std of 0.02, a network of this size hardly reacts to its input."""


def tokenizer_texts() -> list[str]:
    """Enough text for a tokenizer with words in it."""
    prompt = Prompt()
    texts = [prompt.user_text(f"well, the shop moved {n} streets away.")[0] for n in ("two", "ten", "many")]
    return texts + [f"user\n{label}\nsystem\nassistant\n" for label in prompt.labels]


def save_qwen25(directory: Path, *, seed: int = 0, layers: int = 3) -> Path:
    """A Qwen2.5-Omni thinker (dense) with its processor."""
    processor = build_processor(tokenizer_texts())
    _save(build_thinker(processor, seed=seed, hidden=HIDDEN, layers=layers), processor, directory)
    return directory


def save_qwen3(directory: Path, *, seed: int = 0, layers: int = 3) -> Path:
    """A Qwen3-Omni-MoE thinker (4 experts, 2 per token, DeepStack into two layers) with its processor."""
    import torch
    from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

    processor = _qwen3_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3OmniMoeThinkerForConditionalGeneration(_qwen3_config(processor, layers)).float()
    _save(model, processor, directory)
    return directory


def _save(model, processor, directory: Path) -> None:
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(WAKE)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)


def _qwen3_processor():
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3OmniMoeProcessor,
        WhisperFeatureExtractor,
    )

    size = {"shortest_edge": 64**2, "longest_edge": 64**2}
    return Qwen3OmniMoeProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=16),
        video_processor=Qwen2VLVideoProcessor(size=size, patch_size=16, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, sampling_rate=16000, chunk_length=30, return_attention_mask=True
        ),
        tokenizer=train_tokenizer(tokenizer_texts()),
        chat_template=CHAT_TEMPLATE,
    )


def _qwen3_config(processor, layers: int):
    from transformers import Qwen3OmniMoeThinkerConfig

    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
    return Qwen3OmniMoeThinkerConfig(
        audio_config={
            "num_mel_bins": 128,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": HIDDEN,
            "d_model": HIDDEN,
            "output_dim": HIDDEN,
            "downsample_hidden_size": 16,
        },
        vision_config={
            "depth": 3,
            "hidden_size": HIDDEN,
            "intermediate_size": HIDDEN,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": HIDDEN,
            "moe_intermediate_size": HIDDEN,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            "pad_token_id": ids["pad_token"],
            "eos_token_id": ids["im_end"],
        },
        position_id_per_seconds=13,  # as published; the class default is Qwen2.5's 25
        audio_token_id=ids["audio_token"],
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        user_token_id=tokenizer.convert_tokens_to_ids("user"),
        pad_token_id=ids["pad_token"],
        eos_token_id=ids["im_end"],
    )


FPS = 4.0
"""Frames per second of `random_media`: one temporal patch covers half a second."""


def random_media(seed: int, *, video: bool = True, audio: bool = True, frames: int = 8, samples: int = 20777):
    """A decoded clip (`mosear.data.media.Media`): noise frames 60 x 80 and a noisy tone at 16 kHz."""
    import numpy as np

    from mosear.data.media import Media

    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (frames, 60, 80, 3), dtype=np.uint8)
    tone = np.sin(np.arange(samples) * rng.uniform(0.05, 0.3)) + 0.1 * rng.normal(size=samples)
    return Media(
        frames=picture if video else None,
        fps=FPS if video else 0.0,
        audio=tone.astype(np.float32) if audio else None,
        duration=max(frames / FPS if video else 0.0, samples / 16000 if audio else 0.0),
    )


def process(processor, texts: list[str], videos: list, audios: list, images: list = (), *, side="left", **options):
    """The plain transformers way from chat texts and decoded media to model inputs: one call of the whole processor.

    Args:
        processor: of either family.
        texts: with one placeholder per medium.
        videos: uint8 ``[T, H, W, 3]`` each, at `FPS`.
        audios: float32 ``[N]`` each, at 16 kHz.
        images: uint8 ``[H, W, 3]`` each.
        side: padding side.
        options: further arguments of the processor.
    """
    import torch

    def size(part) -> dict[str, int]:  # the processor's default would enlarge these small frames
        return {"shortest_edge": part.size["shortest_edge"], "longest_edge": part.size["longest_edge"]}

    return processor(
        text=texts,
        videos=[torch.from_numpy(v).permute(0, 3, 1, 2) for v in videos] or None,
        audio=list(audios) or None,
        images=list(images) or None,
        images_kwargs={"size": size(processor.image_processor)},
        videos_kwargs={"do_sample_frames": False, "fps": FPS, "size": size(processor.video_processor)},
        text_kwargs={"padding": True, "padding_side": side},
        return_tensors="pt",
        **options,
    )


def process_clips(processor, texts: list[str], medias: list, *, interleave: bool = False, side: str = "left"):
    """`process` for clips of `random_media`; with ``interleave`` every clip has video and audio in one span."""
    options = {}
    if interleave:
        options = {"load_audio_from_video": True, "audio_from_video_indices": list(range(len(medias)))}
    videos = [m.frames for m in medias if m.frames is not None]
    audios = [m.audio for m in medias if m.audio is not None]
    return process(processor, texts, videos, audios, side=side, **options)
