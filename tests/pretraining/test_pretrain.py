"""How the embedded backbones are made: the rule, the curriculum, and a short real run of it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mosear.backbones import load_backbone
from mosear.backbones.families.qwen2_5_omni import Qwen25Omni
from mosear.backbones.tiny.build import build_processor, build_thinker
from mosear.data.sample import IGNORE
from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.transcripts import compatible
from mosear.pretraining.pools import Pool, build_pool
from mosear.pretraining.pretrain import (
    Assembler,
    Curriculum,
    Item,
    Recipe,
    answer_logits,
    arbitrate,
    forward,
    hidden_keys,
    pretrain,
    tokenizer_texts,
)
from mosear.roles import TokenRole

HOUSE = "they sold our house without asking."  # fits angry and sad
TABLE = "the keys are on the table."  # fits all


@pytest.mark.parametrize(
    ("beta", "face", "voice", "text", "answer"),
    [
        (1.0, ("happy", 0.9), ("sad", 0.4), None, "happy"),
        (1.0, ("happy", 0.4), ("sad", 0.9), None, "sad"),
        (1.0, ("happy", 0.5), ("sad", 0.5), None, "sad"),  # a tie goes to the voice
        (2.5, ("happy", 0.9), ("sad", 0.4), None, "sad"),  # 1.0 >= 0.9
        (2.5, ("happy", 0.9), ("sad", 0.3), None, "happy"),  # 0.75 < 0.9
        (1.0, ("happy", 0.8), ("sad", 0.7), HOUSE, "sad"),  # close: the transcript fits the voice alone
        (1.0, ("angry", 0.7), ("happy", 0.8), HOUSE, "angry"),  # close: it fits the face alone
        (1.0, ("angry", 0.7), ("sad", 0.8), HOUSE, "sad"),  # close, but it fits both: strength decides
        (1.0, ("happy", 0.8), ("sad", 0.7), TABLE, "happy"),  # close, but it fits everything
        (1.0, ("happy", 0.8), ("neutral", 0.7), HOUSE, "happy"),  # close, but it fits neither
        (1.0, ("happy", 0.7), ("sad", 0.55), HOUSE, "sad"),  # close, although the face is stronger
        (1.0, ("happy", 0.95), ("sad", 0.7), HOUSE, "happy"),  # not close
        (2.5, ("angry", 0.9), ("happy", 0.4), HOUSE, "angry"),  # 2.5 * 0.4 - 0.9 is close
        (1.0, ("sad", 0.3), ("sad", 0.9), HOUSE, "sad"),
    ],
)
def test_arbitrate(beta: float, face: tuple, voice: tuple, text: str | None, answer: str) -> None:
    assert arbitrate(beta, face, voice, text) == answer


def empty_pool(seed: int, size: int = 120) -> Pool:
    """What the curriculum reads of a pool, without pictures or sounds."""
    rng = np.random.default_rng(seed)
    return Pool(np.zeros((size, 1, 1)), rng.permutation(np.arange(size) % len(EMOTIONS)), rng.uniform(0.2, 1.0, size))


@pytest.fixture(scope="module")
def curriculum() -> Curriculum:
    return Curriculum(Recipe(), empty_pool(0), empty_pool(1))


def test_a_step_is_a_function_of_recipe_and_number(curriculum: Curriculum) -> None:
    again = Curriculum(Recipe(), empty_pool(0), empty_pool(1))
    again.step(3)  # what was drawn before changes nothing
    assert curriculum.step(7) == again.step(7)
    assert curriculum.step(7) != curriculum.step(8)
    assert curriculum.step(7) != Curriculum(Recipe(seed=1), empty_pool(0), empty_pool(1)).step(7)


def test_a_step_has_the_counts_of_the_recipe(curriculum: Curriculum) -> None:
    recipe = curriculum.recipe
    assert len(curriculum.step(0)) == recipe.both + recipe.face + recipe.voice + recipe.text


def test_answers_follow_the_rule_from_what_is_visible(curriculum: Curriculum) -> None:
    faces, voices = curriculum.faces, curriculum.voices
    items = [item for step in range(20) for item in curriculum.step(step)]
    conflicts = 0
    for item in items:
        face = None if item.face is None or "visual" in item.hide else EMOTIONS[faces.emotions[item.face]]
        voice = None if item.voice is None or "audio" in item.hide else EMOTIONS[voices.emotions[item.voice]]
        if face and voice:
            cues = [(face, faces.intensities[item.face]), (voice, voices.intensities[item.voice])]
            assert item.answer == arbitrate(curriculum.recipe.beta, *cues, item.text)
            conflicts += face != voice
        elif face or voice:
            assert item.answer == (face or voice)
        else:
            assert item.answer in compatible(item.text)
    both = curriculum.recipe.both * 20
    assert abs(conflicts / both - curriculum.recipe.conflict_share) < 4 * math.sqrt(0.24 / both)
    kinds = {(item.kind, item.hide) for item in items}
    assert {("both", ()), ("both", ("audio",)), ("both", ("visual",)), ("both", ("visual", "audio"))} <= kinds
    assert {("face", ()), ("voice", ()), ("text", ())} <= kinds


@pytest.fixture(scope="module")
def assembler() -> Assembler:
    processor = build_processor(tokenizer_texts())
    model_config = build_thinker(processor, layers=1).config
    return Assembler(processor, Qwen25Omni(model_config), mel_frames=200)


ITEMS = [
    Item("both", 0, 0, None, "happy", ("audio",)),
    Item("both", 0, 0, HOUSE, "sad", ("visual", "audio")),
    Item("voice", None, 0, HOUSE, "sad"),
    Item("both", 0, 0, None, "angry"),
]


def test_hidden_keys_by_row(assembler: Assembler) -> None:
    batch = assembler.batch(ITEMS)
    hidden = hidden_keys(batch, ITEMS)
    audio, visual = batch.roles == int(TokenRole.AUDIO), batch.roles == int(TokenRole.VISUAL)
    assert torch.equal(hidden[0], audio[0])
    assert torch.equal(hidden[1], audio[1] | visual[1])
    assert not hidden[2].any() and not hidden[3].any()
    assert audio[0].sum() == 50 and visual[0].sum() == 16


def test_labels_are_the_answers(assembler: Assembler) -> None:
    batch = assembler.batch(ITEMS)
    tokenizer = assembler.builder.processor.tokenizer
    for row, item in zip(batch.labels, ITEMS, strict=True):
        assert tokenizer.decode(row[row != IGNORE]) == item.answer + "<|im_end|>"


def test_pools_are_reproducible(tmp_path: Path) -> None:
    pools = [build_pool("voice", "pretrain_val", 6, 0, tmp_path / str(i), workers=1) for i in range(2)]
    assert np.array_equal(pools[0].features, pools[1].features)
    assert sorted(pools[0].emotions) == list(range(6))
    assert pools[0].features.shape[1:] == (128, 200) and pools[0].features.dtype == np.float16
    other = build_pool("voice", "pretrain", 6, 0, tmp_path / "0", workers=1)
    assert not np.array_equal(other.features, pools[0].features)


@pytest.mark.slow
def test_a_short_run_learns_and_its_checkpoint_loads(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = Recipe(
        steps=150,
        both=4,
        face=4,
        voice=20,
        text=0,
        conflict_share=0.2,
        faces=96,
        voices=96,
        held_out=36,
        learning_rate=3e-3,
    )
    scores = pretrain(recipe, tmp_path / "base", tmp_path / "pools")
    assert set(scores) == {"consistent", "video_aligned", "audio_aligned", "face_only", "voice_only"}
    assert (tmp_path / "base" / "model.safetensors").stat().st_size <= 8 * 2**20
    assert json.loads((tmp_path / "base" / "recipe.json").read_text())["steps"] == recipe.steps

    backbone = load_backbone(str(tmp_path / "base"), dtype="fp32")
    faces, voices = (
        build_pool(kind, "pretrain", recipe.voices, recipe.seed, tmp_path / "pools") for kind in ("face", "voice")
    )
    items = [Item("voice", None, i, None, EMOTIONS[voices.emotions[i]]) for i in range(recipe.voices)]
    batch = Assembler(backbone.processor, backbone.family, voices.features.shape[-1]).batch(items)
    with torch.no_grad():
        logits, targets = answer_logits(backbone, forward(backbone, batch, items, faces, voices), batch.labels)
    loss = torch.nn.functional.cross_entropy(logits, targets).item()
    # A model that knows the six labels but hears nothing pays log(6) for the label and 0 for the end token after it.
    chance = math.log(6) / (len(targets) / len(items))
    assert loss < 0.8 * chance
