"""How the base that writes reasons is made: more words, two questions about each clip, and a training that resumes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mosear.backbones import load_backbone
from mosear.backbones.tiny.extend import extended_processor, extended_thinker
from mosear.data.clip import reason_text
from mosear.data.prompt import Prompt
from mosear.data.sample import IGNORE
from mosear.data.synthetic import EMOTIONS, faces, voices
from mosear.data.synthetic.reasons import VOCABULARY, face_cues, voice_cues
from mosear.data.synthetic.transcripts import IDLE_CLAUSES, LABEL_WORDS, PAIR_CLAUSES, TEST_TEMPLATES, TRAIN_TEMPLATES
from mosear.pretraining import pools
from mosear.pretraining.pools import build_pool, pool_cues
from mosear.pretraining.pretrain import Assembler, Item, answer_logits, decode
from mosear.pretraining.reasons import (
    CUE_QUESTION,
    MOST_TOKENS,
    TAGS,
    ReasonRecipe,
    Reasons,
    Training,
    reason_words,
    train,
)

SMALL = ReasonRecipe(
    steps=2, tower_steps=2, both=6, face=2, voice=2, text=2, copies=2, faces=24, voices=24, held_out=24
)
CLAUSES = [*IDLE_CLAUSES, *(clause for clauses in PAIR_CLAUSES.values() for clause in clauses)]


@pytest.fixture(scope="module")
def base():
    return load_backbone("tiny-omni", dtype="fp32")


@pytest.fixture(scope="module")
def processor(base):
    return extended_processor(base.processor, reason_words(), TAGS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pretrain")
    for kind in ("face", "voice"):
        for split in ("pretrain", "pretrain_val"):
            build_pool(kind, split, 24, SMALL.seed, root, workers=1)
    return root


@pytest.fixture(scope="module")
def training(cache) -> Training:
    return Training(SMALL, cache)


def test_prompts_and_labels_are_tokens_as_before(base, processor) -> None:
    old, new = base.processor.tokenizer, processor.tokenizer
    texts = [Prompt().user_text(t.format(clause=c))[0] for t in (*TRAIN_TEMPLATES, *TEST_TEMPLATES) for c in CLAUSES]
    for text in [*texts, *EMOTIONS, "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"]:
        assert old(text)["input_ids"] == new(text)["input_ids"]
    assert all(new.convert_tokens_to_ids(token) == index for token, index in old.get_vocab().items())


def test_reasons_are_short_and_come_back_as_they_were(processor) -> None:
    tokenizer = processor.tokenizer
    for word in reason_words():
        assert len(tokenizer(word)["input_ids"]) == 1
    longest = reason_text(
        {name: phrases[:3] if name != "text" else phrases[:2] for name, phrases in VOCABULARY.items()}
    )
    ids = tokenizer(longest)["input_ids"]
    assert len(ids) <= 24 < MOST_TOKENS and tokenizer.decode(ids) == longest


def test_tags_are_tokens_that_remain_in_text(processor) -> None:
    tokenizer = processor.tokenizer
    text = "<think>face calm</think><answer>happy</answer>"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 7 and tokenizer.decode(ids, skip_special_tokens=True) == text


def test_an_extended_base_says_what_it_said(base, processor) -> None:
    grown = extended_thinker(base.model, base.processor.tokenizer, processor)
    ids = torch.tensor([base.processor.tokenizer("the keys are on the table.")["input_ids"]])
    with torch.no_grad():
        before, after = base.model(input_ids=ids).logits, grown(input_ids=ids).logits
    kept = len(base.processor.tokenizer)
    assert torch.equal(before, after[..., :kept])
    assert after.shape[-1] == len(processor.tokenizer) > kept


def test_pool_cues_are_those_of_the_rendered_items(cache, tmp_path, monkeypatch) -> None:
    drawn = []
    for module, name, cues in ((faces, "_draw_pose", face_cues), (voices, "_pitch_contour", voice_cues)):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda p, *rest, own=original, cues=cues: (drawn.append(cues(p)), own(p, *rest))[1]
        )
    for kind in ("face", "voice"):
        drawn.clear()
        pools._render_chunk(kind, "pretrain", 24, SMALL.seed, range(4))
        assert drawn == pool_cues(kind, "pretrain", 24, SMALL.seed)[:4]


def test_a_hidden_modality_is_not_described() -> None:
    reasons = Reasons([["brows raised"]], [["voice loud", "voice fast"]])
    seen = Item("both", 0, 0, "the keys are on the table.", "sad")
    assert reasons.asked(seen).answer == "brows raised; voice loud, voice fast; words plain"
    assert reasons.asked(replace(seen, hide=("audio",))).answer == "brows raised; words plain"
    assert reasons.asked(Item("voice", None, 0, None, "sad")).answer == "voice loud, voice fast"


def test_no_answer_has_both_reason_and_label(training) -> None:
    for step in range(20):
        for item in training.curriculum.step(step):
            assert item.answer in EMOTIONS
            assert not LABEL_WORDS.search(training.reasons.asked(item).answer)
        for text in training.copies.texts(step):
            assert not LABEL_WORDS.search(text) and sum(tag in text.split() for tag in TAGS) >= 1


def test_both_questions_in_one_pass_equal_two_passes(training) -> None:
    items, backbone = training.curriculum.step(0), training.backbone
    asked = [training.reasons.asked(item) for item in items]
    backbone.model.eval()
    with torch.no_grad():
        together = training.questions(items)
        for name, prompt, own in (("label", Prompt(), items), ("cues", Prompt(question=CUE_QUESTION), asked)):
            assembler = Assembler(backbone.processor, backbone.family, training.voices.features.shape[-1], prompt)
            batch = assembler.batch(own)
            logits, targets = answer_logits(
                backbone, decode(backbone, batch, own, training.media.of(own)), batch.labels
            )
            torch.testing.assert_close(together[name], F.cross_entropy(logits, targets))


def test_answers_are_the_reasons(training) -> None:
    items = [training.reasons.asked(item) for item in training.curriculum.step(0)]
    tokenizer = training.backbone.processor.tokenizer
    for row, item in zip(training.cues.batch(items).labels, items, strict=True):
        assert tokenizer.decode(row[row != IGNORE]) == item.answer + "<|im_end|>"


@pytest.mark.slow
def test_an_interrupted_training_ends_as_one_in_one_piece(cache, tmp_path) -> None:
    whole = Training(SMALL, cache)
    for _ in range(SMALL.steps + SMALL.tower_steps):
        whole.step()
    for interrupted in (2, 3):  # before and after the visual tower joined
        first = Training(SMALL, cache)
        while first.done < interrupted:
            first.step()
        first.keep(tmp_path / "kept.pt")
        rest = Training(SMALL, cache)
        rest.resume(tmp_path / "kept.pt")
        assert rest.done == interrupted
        while rest.done < SMALL.steps + SMALL.tower_steps:
            rest.step()
        for name, weight in whole.backbone.model.state_dict().items():
            assert torch.equal(weight, rest.backbone.model.state_dict()[name]), name


@pytest.mark.slow
def test_a_short_training_writes_a_base(cache, tmp_path) -> None:
    scores = train(SMALL, tmp_path / "base", cache)
    assert set(scores["cue_f1"]) == set(VOCABULARY)
    recipe = json.loads((tmp_path / "base" / "recipe.json").read_text())
    assert recipe["base"] == "tiny-omni" and recipe["steps"] == recipe["tower_steps"] == 2 and "torch" in recipe
    written = load_backbone(str(tmp_path / "base"), dtype="fp32")
    assert written.processor.tokenizer("<think>")["input_ids"] == [written.processor.tokenizer.get_vocab()["<think>"]]
    base, after = load_backbone("tiny-omni", dtype="fp32").model.state_dict(), written.model.state_dict()
    changed = {name for name, weight in base.items() if not torch.equal(weight, after[name])}
    assert not any(name.startswith("model.audio_tower.") for name in changed)
    assert any(name.startswith("model.visual.") for name in changed)


def test_speakers_of_the_pool_are_none_of_the_corpus() -> None:
    speaker, _ = pools._speaker_of("face", "pretrain", SMALL.seed, 0)
    assert speaker.id.startswith("pretrain-")
