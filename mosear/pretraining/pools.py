"""Pools of rendered faces and voices from which pretraining pairs clips on the fly.

Every item goes through the real codec (H.264, AAC) and the real processor, so the base meets at pretraining what it
meets in a file. Speakers come from their own split: none of them occurs in the shipped corpus.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mosear.backbones.tiny.build import build_processor
from mosear.data.media import MediaBudget, decode
from mosear.data.media_processor import MediaProcessor
from mosear.data.synthetic.clips import FPS, SAMPLE_RATE, render_clip_arrays
from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.faces import face_parameters
from mosear.data.synthetic.mp4 import write_clip
from mosear.data.synthetic.reasons import face_cues, voice_cues, voice_parameters
from mosear.data.synthetic.speakers import Speaker, make_speaker
from mosear.files import written_atomically

BUDGET = MediaBudget(num_frames=8, max_pixels=112 * 112, max_seconds=30.0)
INTENSITY = (0.2, 1.0)
CHUNK = 100


@dataclass(frozen=True)
class Pool:
    """Processed media with what they show.

    Attributes:
        features: float16 ``[N, patches, dim]`` (faces) or ``[N, mel bins, frames]`` (voices).
        emotions: ``[N]`` index into EMOTIONS.
        intensities: ``[N]``.
    """

    features: np.ndarray
    emotions: np.ndarray
    intensities: np.ndarray


def build_pool(kind: str, split: str, size: int, seed: int, cache: Path, workers: int | None = None) -> Pool:
    """Render ``size`` faces or voices, or read them back from ``cache``.

    Args:
        kind: ``face`` or ``voice``.
        split: names the speakers (``pretrain`` or ``pretrain_val``).
        size: number of items.
        seed: with kind, split and index it determines an item.
        cache: directory for the rendered pool.
        workers: processes.
    """
    path = cache / f"{kind}-{split}-{seed}-{size}.npy"
    emotions, intensities = _design(kind, split, size, seed)
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        chunks = [range(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]
        with ProcessPoolExecutor(workers or os.cpu_count()) as executor:
            parts = list(executor.map(partial(_render_chunk, kind, split, size, seed), chunks))
        with written_atomically(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(parts))
    return Pool(np.load(path, mmap_mode="r"), emotions, intensities)


def _design(kind: str, split: str, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, *map(ord, kind + split)]))
    emotions = rng.permutation(np.arange(size) % len(EMOTIONS))
    return emotions, rng.uniform(*INTENSITY, size)


def _speaker_of(kind: str, split: str, seed: int, index: int) -> tuple[Speaker, np.random.Generator]:
    """Who an item shows, and the parent of the random streams of its face and voice."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, *map(ord, kind + split)]))
    return make_speaker(split, int(rng.integers(0, 1_000_000)), seed), rng


def pool_cues(kind: str, split: str, size: int, seed: int) -> list[list[str]]:
    """What each item of the pool does, as phrases of the reasons; nothing is rendered."""
    emotions, intensities = _design(kind, split, size, seed)
    cues = []
    for index in range(size):
        speaker, rng = _speaker_of(kind, split, seed, index)
        face_rng, voice_rng = rng.spawn(2)
        cue = (EMOTIONS[emotions[index]], float(intensities[index]))
        if kind == "face":
            cues.append(face_cues(face_parameters(*cue, speaker, face_rng)))
        else:
            cues.append(voice_cues(voice_parameters(*cue, voice_rng)))
    return cues


def _render_chunk(kind: str, split: str, size: int, seed: int, indices: Sequence[int]) -> np.ndarray:
    import torch

    torch.set_num_threads(1)
    emotions, intensities = _design(kind, split, size, seed)
    processor = MediaProcessor(build_processor(["a"]))
    rows = []
    for index in indices:
        cue = (EMOTIONS[emotions[index]], float(intensities[index]))
        speaker, rng = _speaker_of(kind, split, seed, index)
        frames, audio = render_clip_arrays(
            cue if kind == "face" else None, cue if kind == "voice" else None, speaker, rng
        )
        file = io.BytesIO()
        write_clip(file, frames, FPS, audio, SAMPLE_RATE)
        file.seek(0)
        if kind == "face":
            item: Any = processor(decode(file, None, BUDGET)).videos[0]
            media = item.pixels
        else:
            item = processor(decode(None, file, BUDGET)).audios[0]
            media = item.mel
        rows.append(media.numpy().astype(np.float16))
    frames_kept = min(row.shape[-1] for row in rows) if kind == "voice" else None
    return np.stack([row[..., :frames_kept] for row in rows])
