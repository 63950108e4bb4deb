"""The shipped bases are what their documentation says: frozen files, a voice-biased one and an unbiased control."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mosear.backbones import load_backbone
from mosear.backbones.labels import LabelTrie
from mosear.backbones.tiny import EMBEDDED, embedded_path
from mosear.data.clip import Clip
from mosear.data.media import Media
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import SampleBuilder, collate
from mosear.data.synthetic import EMOTIONS, make_speaker, render_clip_arrays
from mosear.data.synthetic.plans import GROUPS, clip_rngs, plan_clip
from mosear.data.synthetic.reasons import VOCABULARY, clip_cues, phrase_f1
from mosear.data.synthetic.transcripts import LABEL_WORDS
from mosear.inference.generation import generate_text
from mosear.inference.scoring import label_log_probs
from mosear.pretraining.reason_questions import CUE_QUESTION
from mosear.pretraining.reasons import MOST_TOKENS

DOCS = Path(__file__).parents[2] / "docs" / "backbones.md"
STRONG, WEAK = (0.7, 1.0), (0.25, 0.55)
CLIPS = 60


@pytest.mark.parametrize("name", EMBEDDED)
def test_weights_are_the_documented_ones(name):
    weights = embedded_path(name) / "model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in DOCS.read_text()


@pytest.mark.parametrize(
    ("name", "beta"),
    [("tiny-omni", 2.5), ("tiny-omni-beta4", 4.0), ("tiny-omni-balanced", 1.0), ("tiny-omni-reasons", 2.5)],
)
def test_recipe_is_recorded(name, beta):
    recipe = json.loads((embedded_path(name) / "recipe.json").read_text())
    assert recipe["beta"] == beta and {"seed", "steps", "faces", "voices", "torch", "transformers"} <= recipe.keys()


@pytest.mark.parametrize("name", EMBEDDED)
def test_size_is_one_to_three_million(name):
    count = sum(p.numel() for p in load_backbone(name, dtype="fp32").model.parameters())
    assert 1e6 <= count <= 3e6


def conflict_accuracy(name: str, *, face: tuple[float, float], voice: tuple[float, float], truth: str) -> float:
    """Accuracy on clips whose face and voice show different emotions with intensities drawn from the given ranges."""
    backbone = load_backbone(name, dtype="fp32")
    processor, prompt = MediaProcessor(backbone.processor), Prompt()
    builder = SampleBuilder(backbone.processor, backbone.family, prompt)
    samples, labels = [], []
    for index in range(CLIPS):
        rng = np.random.default_rng([7, index])
        shown, heard = (EMOTIONS[i] for i in rng.permutation(len(EMOTIONS))[:2])
        cues = (shown, rng.uniform(*face)), (heard, rng.uniform(*voice))
        frames, audio = render_clip_arrays(*cues, make_speaker("test", index, 7), rng)
        media = backbone.encode(processor(Media(frames[::2], 4.0, audio, 2.0)))
        samples.append(builder.build(Clip(id=str(index), video="v.mp4", audio="video"), media))
        labels.append(shown if truth == "face" else heard)
    with torch.no_grad():
        scores = label_log_probs(
            backbone, collate(samples, builder.pad_id), LabelTrie.of(EMOTIONS, backbone.processor.tokenizer)
        )
    answers = [EMOTIONS[i] for i in scores.argmax(-1)]
    return float(np.mean([answer == label for answer, label in zip(answers, labels, strict=True)]))


@pytest.mark.parametrize("name", ["tiny-omni", "tiny-omni-beta4", "tiny-omni-reasons"])
def test_the_biased_ones_follow_the_voice(name):
    video_aligned = conflict_accuracy(name, face=STRONG, voice=WEAK, truth="face")
    audio_aligned = conflict_accuracy(name, face=WEAK, voice=STRONG, truth="voice")
    assert audio_aligned > 0.7 and audio_aligned - video_aligned > 0.3


def written_reasons(count: int) -> tuple[list[str], list[dict[str, list[str]]]]:
    """What the base that writes reasons says of clips of the synthetic corpus, and what there is to say."""
    backbone = load_backbone("tiny-omni-reasons", dtype="fp32")
    processor = MediaProcessor(backbone.processor)
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt(question=CUE_QUESTION))
    group = next(group for group in GROUPS if group.name == "test_consistent")
    samples, cues = [], []
    for index in range(count):
        plan, (_, rng) = plan_clip(0, group, index), clip_rngs(0, group, index)
        frames, audio = render_clip_arrays(plan.face, plan.voice, plan.speaker, rng)
        media = backbone.encode(processor(Media(frames[::2], 4.0, audio, 2.0)))
        samples.append(builder.build(Clip(id=plan.id, video="v.mp4", audio="video", text=plan.text), media))
        cues.append(clip_cues(0, plan, index))
    return generate_text(backbone, collate(samples, builder.pad_id), max_new_tokens=MOST_TOKENS), cues


def test_a_base_can_write_reasons():
    written, cues = written_reasons(CLIPS)
    known = {phrase for phrases in VOCABULARY.values() for phrase in phrases}
    phrases = [phrase for text in written for part in text.split("; ") for phrase in part.split(", ")]
    assert np.mean([phrase in known for phrase in phrases]) > 0.95
    assert not any(LABEL_WORDS.search(text) for text in written)
    scores = phrase_f1(written, cues)
    assert scores["video"] > 0.35 and scores["audio"] > 0.55 and scores["text"] > 0.85, scores


def test_the_control_has_no_such_bias():
    video_aligned = conflict_accuracy("tiny-omni-balanced", face=STRONG, voice=WEAK, truth="face")
    audio_aligned = conflict_accuracy("tiny-omni-balanced", face=WEAK, voice=STRONG, truth="voice")
    assert min(video_aligned, audio_aligned) > 0.5 and abs(audio_aligned - video_aligned) < 0.25
