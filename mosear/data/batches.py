"""Taking padded batches apart again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from mosear.backbones.media import MediaBatch
from mosear.data.sample import IGNORE, OmniBatch, Sample
from mosear.roles import TokenRole


def split_media(media: MediaBatch, data: OmniBatch) -> list[MediaBatch]:
    """Per clip, its own part of a flat media batch (a clip has the kinds of media that its tokens show)."""
    videos, audios = iter(media.videos), iter(media.audios)
    has_visual, has_audio = data.hidden_keys("visual").any(1).tolist(), data.hidden_keys("audio").any(1).tolist()
    return [
        MediaBatch([next(videos)] if visual else [], [next(audios)] if audio else [])
        for visual, audio in zip(has_visual, has_audio, strict=True)
    ]


def split_samples(data: OmniBatch) -> list[Sample]:
    """The unpadded samples of a batch: ``collate(split_samples(data))`` is the batch."""
    lengths, prompts = data.attention_mask.sum(1).tolist(), data.prompt_mask.sum(1).tolist()
    return [
        Sample(
            clip=data.clips[index],
            input_ids=data.input_ids[index, -length:],
            position_ids=data.position_ids[:, index, -length:],
            roles=data.roles[index, -length:],
            transcript=data.transcript[index, -length:],
            labels=data.labels[index, -length:],
            prompt_length=prompt,
            media=media,
        )
        for index, (length, prompt, media) in enumerate(
            zip(lengths, prompts, split_media(data.media, data), strict=True)
        )
    ]


def without_answer(sample: Sample) -> Sample:
    """The prompt alone."""
    end = sample.prompt_length
    return replace(
        sample,
        input_ids=sample.input_ids[:end],
        position_ids=sample.position_ids[:, :end],
        roles=sample.roles[:end],
        transcript=sample.transcript[:end],
        labels=torch.full_like(sample.labels[:end], IGNORE),
    )


def moved(sample: Sample, device: torch.device | str) -> Sample:
    """The sample with all tensors on ``device``; views become tensors of their own, so that pickles stay small."""
    own: dict[str, Any] = {
        name: value.clone().to(device) for name, value in vars(sample).items() if isinstance(value, torch.Tensor)
    }
    return replace(sample, media=sample.media.to(device), **own)


def without_modality(sample: Sample, modality: Literal["visual", "audio"]) -> Sample:
    """The sample without the tokens and the media of one modality; others keep their positions."""
    kept = sample.roles != int(TokenRole[modality.upper()])
    lost = int((~kept[: sample.prompt_length]).sum())
    media = sample.media
    return replace(
        sample,
        input_ids=sample.input_ids[kept],
        position_ids=sample.position_ids[:, kept],
        roles=sample.roles[kept],
        transcript=sample.transcript[kept],
        labels=sample.labels[kept],
        prompt_length=sample.prompt_length - lost,
        media=MediaBatch([] if modality == "visual" else media.videos, [] if modality == "audio" else media.audios),
    )
