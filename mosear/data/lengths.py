"""Token counts before anything is decoded: from container headers, for grouping clips into batches."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from mosear.data.decode_process import Decoder, InlineDecoder
from mosear.data.media import MediaBudget, MediaInfo, fit_within
from mosear.data.media_processor import audio_token_count

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from mosear.data.clip import Clip
    from mosear.data.manifest import Manifest

PROMPT_TOKENS = 32
CHARACTERS_PER_TOKEN = 4


def estimate_lengths(
    manifest: Manifest,
    sources: Callable[[Clip], tuple[Path | None, Path | str | None]],
    processor: ProcessorMixin,
    budget: MediaBudget,
    max_pixels: int | None,
    decoder: Decoder | None = None,
) -> list[int]:
    """Estimated tokens per clip. A clip whose header cannot be read counts as text only; decoding will report it.

    Headers are read as ``decoder`` reads them, by a copy of it for each thread.
    """
    decoders: list[Decoder] = []
    own = threading.local()

    def take_decoder() -> None:
        own.decoder = copy(decoder or InlineDecoder())
        decoders.append(own.decoder)

    def length(clip: Clip) -> int:
        text = PROMPT_TOKENS + len(clip.text or "") // CHARACTERS_PER_TOKEN
        video, audio = sources(clip)
        media = 0
        try:
            info = own.decoder.probe(video) if video is not None else None
            if info is not None:
                media += video_tokens(info, processor, budget, max_pixels)
            if audio is not None:
                heard = info if audio == "video" and info is not None else own.decoder.probe(Path(audio))
                media += audio_tokens(min(heard.duration or 0.0, budget.max_seconds), processor)
        except (ValueError, OSError):  # unreadable, or of a shape that the processor refuses
            return text
        return text + media

    threads = max(1, min(8, len(manifest) // 100))  # headers are small: the disk's latency is what takes time
    try:
        with ThreadPoolExecutor(threads, initializer=take_decoder) as pool:
            return list(pool.map(length, manifest))
    finally:
        for used in decoders:
            used.close()


def video_tokens(info: MediaInfo, processor: ProcessorMixin, budget: MediaBudget, max_pixels: int | None) -> int:
    """Placeholders of a video: temporal patches times merged spatial patches of the resized frame."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

    settings = processor.video_processor
    frames = budget.frame_count(min(info.duration or 0.0, budget.max_seconds))
    if not info.width * info.height:  # the header does not say
        return 0
    decoded_width, decoded_height = fit_within(info.width, info.height, budget.max_pixels)
    factor = settings.patch_size * settings.merge_size
    largest = max_pixels or settings.size["longest_edge"]
    height, width = smart_resize(
        decoded_height,
        decoded_width,
        factor,
        min(settings.size["shortest_edge"], largest),
        largest,
    )
    return math.ceil(frames / settings.temporal_patch_size) * (height // factor) * (width // factor)


def audio_tokens(seconds: float, processor: ProcessorMixin) -> int:
    """Placeholders of an audio of this length."""
    extractor = processor.feature_extractor
    return audio_token_count(processor, math.ceil(seconds * extractor.sampling_rate / extractor.hop_length))
