"""Small random clips for tests of a backbone: through the real processor, without files."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from peft import LoraConfig, inject_adapter_in_model

from mosear.backbones.backbone import OmniBackbone
from mosear.data.clip import Clip
from mosear.data.media import Media
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, Sample, SampleBuilder, collate

# Every combination that evaluation meets, of different lengths, so that a batch is padded.
MIXED = (("video", "audio", "text"), ("audio",), ("video", "text"), ("text",), ("video", "audio"))


def fresh(backbone: OmniBackbone) -> OmniBackbone:
    """A copy that a test may change."""
    return replace(backbone, model=deepcopy(backbone.model))


def inject_lora(backbone: OmniBackbone, *projections: str, rank: int = 2) -> None:
    """Random LoRA (B is not zero) on attention projections of the decoder, in place.

    By full names: for Qwen3-Omni, PEFT 0.20 cuts a regular expression down to its last part, and the audio tower has
    that too.
    """
    names = [
        f"{backbone.family.language_model_path}.{name}"
        for name, _ in backbone.language_model.named_modules()
        if name.endswith(projections)
    ]
    inject_adapter_in_model(LoraConfig(r=rank, target_modules=names, init_lora_weights=False), backbone.model)


def make_sample(
    backbone: OmniBackbone,
    kinds: Sequence[str],
    seed: int,
    *,
    answer: str | None = None,
    interleave: bool = False,
    prompt: Prompt | None = None,
) -> Sample:
    """A clip of random pictures, noise and words; the same for the same arguments, whatever the answer."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (2 * int(rng.integers(1, 4)), 56, 56, 3), np.uint8)
    sound = (0.3 * rng.standard_normal(int(rng.integers(8000, 20000)))).astype(np.float32)
    words = " ".join(rng.choice(["so", "you", "came", "after", "all"], int(rng.integers(1, 9))))
    media = MediaProcessor(backbone.processor)(
        Media(frames if "video" in kinds else None, 4.0, sound if "audio" in kinds else None, 1.0)
    )
    clip = Clip(
        id=f"clip-{seed}",
        video="v.mp4" if "video" in kinds else None,
        audio="a.wav" if "audio" in kinds else None,
        text=words if "text" in kinds else None,
    )
    builder = SampleBuilder(backbone.processor, backbone.family, prompt or Prompt(), interleave=interleave)
    return builder.build(clip, media, answer=answer)


def make_batch(backbone: OmniBackbone, kinds: Sequence[Sequence[str]] = MIXED, **options: Any) -> OmniBatch:
    """One sample per entry of ``kinds``, left-padded."""
    samples = [make_sample(backbone, kind, seed, **options) for seed, kind in enumerate(kinds)]
    return collate(samples, backbone.processor.tokenizer.pad_token_id)
