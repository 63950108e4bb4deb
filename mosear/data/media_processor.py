"""Decoded media to tower inputs, with the real processor's own components."""

from __future__ import annotations

import math
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mosear.backbones.media import AudioInput, MediaBatch, VideoInput

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from mosear.data.media import Media


class MediaProcessor:
    """Frames and waveform to pixel patches and mel.

    Args:
        processor: the checkpoint's processor; its video processor and mel extractor are used.
        max_pixels: pixel budget per frame; ``None`` keeps the checkpoint's own.
    """

    def __init__(self, processor: ProcessorMixin, *, max_pixels: int | None = None) -> None:
        self.processor = processor
        self.video_options: dict[str, Any] = {"do_sample_frames": False, "return_tensors": "pt"}
        if max_pixels is not None:
            smallest = min(processor.video_processor.size["shortest_edge"], max_pixels)
            self.video_options["size"] = {"shortest_edge": smallest, "longest_edge": max_pixels}

    def __call__(self, media: Media) -> MediaBatch:
        """Decoded frames and waveform to tower inputs.

        Raises:
            ValueError: the processor can make nothing of them: a sound too short for one token, a picture too flat.
        """
        videos = [self._video_input(media.frames, media.fps)] if media.frames is not None else []
        audios = [self._audio_input(media.audio)] if media.audio is not None else []
        return MediaBatch(videos, audios)

    def _video_input(self, frames: np.ndarray, fps: float) -> VideoInput:
        video_processor = self.processor.video_processor
        out = video_processor(torch.from_numpy(frames).permute(0, 3, 1, 2), **self.video_options)
        return VideoInput(
            out["pixel_values_videos"], out["video_grid_thw"][0], video_processor.temporal_patch_size / fps
        )

    def _audio_input(self, audio: np.ndarray) -> AudioInput:
        rate = self.processor.feature_extractor.sampling_rate
        mel = self._mel(audio)
        if mel is None or audio_token_count(self.processor, mel.shape[-1]) < 1:
            raise ValueError(f"the sound ({len(audio) / rate:.3f} s) is too short for one token")
        return AudioInput(mel)

    def _mel(self, audio: np.ndarray) -> torch.Tensor | None:
        extractor = self.processor.feature_extractor
        if len(audio) <= extractor.n_fft // 2:  # too short to be mirrored at its ends
            return None
        # A family that pads to a full window (30 to 300 s) gives the same mel for a fraction of the work: zeros past
        # the last analysis window change nothing. No sound is cut here: budgets do that.
        padded = math.ceil(len(audio) / extractor.hop_length) * extractor.hop_length + 2 * extractor.n_fft
        # The extractor itself: around it, the processor expands a text that is not used, for as long as the mel takes.
        out = extractor(
            [audio],
            sampling_rate=extractor.sampling_rate,
            padding="max_length" if self._pads_sound else "longest",
            max_length=max(min(padded, extractor.n_samples), len(audio)),
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return out["input_features"][0][:, : int(out["attention_mask"][0].sum())]

    @cached_property
    def _pads_sound(self) -> bool:
        """Does the processor pad sound with silence? (If not, the last windows see the sound mirrored.)"""
        extractor = self.processor.feature_extractor
        sound = np.zeros(4 * extractor.n_fft, np.float32)
        options = {"max_length": 2 * len(sound), "sampling_rate": extractor.sampling_rate}
        out = self.processor(
            text=[self.processor.audio_token], audio=[sound], audio_kwargs=options, return_tensors="pt"
        )
        return bool(out["input_features"].shape[-1] > len(sound) // extractor.hop_length)


def audio_token_count(processor: ProcessorMixin, mel_frames: int) -> int:
    """How many placeholders an audio takes, by the processor's own rule."""
    rule = sys.modules[type(processor).__module__]._get_feat_extract_output_lengths
    return max(0, int(rule(torch.tensor(mel_frames))))
