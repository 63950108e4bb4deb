"""Token counts from headers against those of the real processor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mosear.backbones.media import MediaBatch
from mosear.backbones.tiny.build import train_tokenizer
from mosear.data.clip import Clip
from mosear.data.dataset import MediaReader
from mosear.data.lengths import PROMPT_TOKENS, audio_tokens, estimate_lengths
from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.media import MediaBudget
from mosear.data.media_processor import MediaProcessor, audio_token_count
from mosear.data.prompt import Prompt
from mosear.data.sample import SampleBuilder
from mosear.data.synthetic.transcripts import all_texts
from mosear.roles import TokenRole

SHAPES = {
    "wide.mp4": {"size": (320, 96), "frames": 30},
    "tall.mp4": {"size": (90, 400), "frames": 60},
    "tiny.mp4": {"size": (20, 16), "frames": 12},
    "large.mp4": {"size": (640, 480), "frames": 50, "fps": 10},
    "sideways.mp4": {"size": (320, 120), "frames": 20, "rotation": 90},
    "silent.mkv": {"size": (64, 48), "audio": None},
    "voice.wav": {"video": None, "audio": "pcm_s16le", "audio_seconds": 3.3},
}
BUDGETS = {
    "frames": (MediaBudget(num_frames=8), None),
    "odd": (MediaBudget(num_frames=5, max_pixels=200 * 200), 20_000),
    "fps": (MediaBudget(num_frames=None, fps=3.0, max_seconds=2.5), 6 * 28 * 28),
    "capped": (MediaBudget(num_frames=None, fps=9.0, max_frames=6, max_pixels=10_000), None),
}


@pytest.fixture(scope="module")
def clips(media: Callable[..., Path], tmp_path_factory) -> Path:
    rows = []
    for name, options in SHAPES.items():
        path = media(name, **options)
        video = None if options.get("video", "") is None else path.name
        audio = path.name if video is None else None if options.get("audio", "") is None else "video"
        text = "well, the shop moved two streets away." if len(rows) % 2 else None
        rows.append(Clip(id=name, video=video, audio=audio, text=text, label="sad"))
    return write_manifest(rows, path.parent / "shapes.parquet")


@pytest.mark.parametrize("budget", BUDGETS)
def test_estimates_are_close_to_the_real_counts(any_backbone, clips: Path, corpus: Path, budget: str) -> None:
    limits, max_pixels = BUDGETS[budget]
    processor = any_backbone.processor
    builder = SampleBuilder(processor, any_backbone.family, Prompt())
    for path, few in ((clips, len(SHAPES)), (corpus / "test.parquet", 16)):
        manifest = load_manifest(path)[:few]
        reader = MediaReader(manifest, MediaProcessor(processor, max_pixels=max_pixels), limits)
        estimates = estimate_lengths(manifest, reader.sources, processor, limits, max_pixels)
        assert len(estimates) == len(manifest)
        for clip, estimate in zip(manifest, estimates, strict=True):
            sample = builder.build(clip, reader(clip)[0])
            text = PROMPT_TOKENS + len(clip.text or "") // 4
            media_tokens = int(((sample.roles == TokenRole.VISUAL) | (sample.roles == TokenRole.AUDIO)).sum())
            assert abs(estimate - text - media_tokens) <= 2, (clip.id, estimate - text, media_tokens)


def test_text_part_is_right_within_a_few_tokens(backbone, corpus: Path) -> None:
    """With a tokenizer that was trained on such texts, unlike the fixture's."""
    processor = copy.copy(backbone.processor)
    processor.tokenizer = train_tokenizer([Prompt().user_text(text)[0] for text in list(all_texts())[::10]])
    builder = SampleBuilder(processor, backbone.family, Prompt())
    for clip in load_manifest(corpus / "test.parquet"):
        true = len(builder.build(replace(clip, video=None, audio=None), MediaBatch()).input_ids) if clip.text else 32
        assert abs(PROMPT_TOKENS + len(clip.text or "") // 4 - true) <= 24, (clip.text, true)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.02, 1.0, 1.999, 7.53, 30.0])
def test_audio_follows_the_processors_own_rule(any_backbone, seconds: float) -> None:
    frames = -(-round(seconds * 16_000) // 160)
    assert audio_tokens(seconds, any_backbone.processor) == audio_token_count(any_backbone.processor, frames) >= 0
    per_second = 25 if "2_5" in any_backbone.family.name else 13
    assert audio_tokens(seconds, any_backbone.processor) == pytest.approx(per_second * seconds, abs=2)


def test_what_cannot_be_read_counts_as_text(backbone, tmp_path: Path, media: Callable[..., Path]) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    flat = media("flat.mkv", size=(900, 4), frames=3, audio=None)
    (tmp_path / "flat.mkv").write_bytes(flat.read_bytes())
    words = "a" * 40
    rows = [
        Clip(id="gone", video="gone.mp4", text=words),
        Clip(id="text", video="text.mp4", text=words),
        Clip(id="flat", video="flat.mkv", text=words),
        Clip(id="words", text=words),
    ]
    manifest = load_manifest(write_manifest(rows, tmp_path / "bad.parquet"))
    found = estimate_lengths(manifest, manifest.resolve, backbone.processor, MediaBudget(), None)
    assert found == [PROMPT_TOKENS + 10] * 4
