"""Conflict mixing against slow literal references, on tiny random backbones with LoRA and with MoSE."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.media import MediaBatch
from mosear.data.clip import ModalityLabels
from mosear.data.dataset import ClipBatch
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, Sample, SampleBuilder, collate
from mosear.evaluation.answering import Answering
from mosear.evaluation.scoring import LabelTrie, label_log_probs, unimodal_distributions
from mosear.experts import MoSEConfig
from mosear.experts.state import conductor_of
from mosear.training.batches import split_samples, without_answer
from mosear.training.conflict_mixing import ConflictMixing, Pair, draw_pairs
from mosear.training.label_passes import eval_mode, one_pass_log_probs
from mosear.training.mixing_target import (
    mixing_divergence,
    pooled_target,
    reliability,
    sample_weights,
    visual_share,
)
from mosear.training.module import EmotionTuner
from mosear.training.optim import Tuning
from tests.helpers.omni_samples import fresh, make_sample

BOTH, ALL = ("video", "audio"), ("video", "audio", "text")
KINDS = (ALL, ("audio",), BOTH, ("text",), ALL, ("video", "text"), ALL)
ELIGIBLE = {0, 2, 4, 6}
LABELS = ("happy", "sad", "happy", "angry", "happy", "neutral", "sad")


@pytest.fixture(params=["qwen25", "qwen3"])
def backbone(request: pytest.FixtureRequest) -> OmniBackbone:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["lora", "mose"])
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def adapted(backbone: OmniBackbone, method: str, *, dropout: float = 0.0) -> tuple[OmniBackbone, peft.PeftModel]:
    """A copy with an adapter of random weights, in training mode."""
    own = fresh(backbone).freeze()
    names = [
        f"{own.family.language_model_path}.{name}"
        for name, _ in own.language_model.named_modules()
        if name.endswith(("q_proj", "v_proj"))
    ]
    config: peft.PeftConfig = peft.LoraConfig(r=2, target_modules=names, lora_dropout=dropout)
    if method == "mose":
        config = MoSEConfig(r=2, alpha=4, dropout=dropout, balance_weight=0.3)
    torch.manual_seed(0)
    model = peft.get_peft_model(own.model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
    return own, model


def tuner_of(
    own: OmniBackbone, model: torch.nn.Module, *, interleave: bool = False, **mixing: Any
) -> tuple[EmotionTuner, dict[str, float]]:
    """A module without a trainer, and what it logs."""
    prompt = Prompt()
    builder = SampleBuilder(own.processor, own.family, prompt, interleave=interleave)
    settings = ConflictMixing(**{"rate": 0.5, **mixing})
    tuner = EmotionTuner(own, model, prompt, Tuning(), Answering(), mixing=settings, builder=builder)
    logged: dict[str, float] = {}
    tuner.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    tuner.on_train_epoch_start()
    return tuner, logged


def training_batch(own: OmniBackbone, labels: tuple[str, ...] = LABELS, *, interleave: bool = False) -> OmniBatch:
    """Clips with every combination of modalities, encoded, with answers; each with its own modality labels too."""
    samples = []
    for seed, (kind, label) in enumerate(zip(KINDS, labels, strict=True)):
        sample = make_sample(own, kind, seed, answer=label, interleave=interleave)
        clip = replace(sample.clip, label=label, modality_labels=ModalityLabels(visual=label, audio=label))
        samples.append(replace(sample, clip=clip, media=own.encode(sample.media)))
    return collate(samples, own.processor.tokenizer.pad_token_id)


def same_batch(first: OmniBatch, second: OmniBatch) -> bool:
    names = ("input_ids", "attention_mask", "position_ids", "roles", "transcript", "labels", "prompt_mask")
    media = [
        torch.equal(a.features, b.features)
        for kind in ("videos", "audios")
        for a, b in zip(getattr(first.media, kind), getattr(second.media, kind), strict=True)
    ]
    return all(torch.equal(getattr(first, n), getattr(second, n)) for n in names) and all(media)


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    assert all(g is not None for g in found), "every trainable parameter is in the graph (DDP would hang)"
    return dict(zip(named, found, strict=True))


# -- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_are_a_function_of_seed_and_step() -> None:
    def draw(seed: int, step: int) -> list[Pair]:
        torch.manual_seed(np.random.randint(1 << 30))  # global generators do not matter
        return draw_pairs(range(16), 16, rate=0.5, seed=seed, step=step)

    assert draw(0, 7) == draw(0, 7)
    assert draw(0, 7) != draw(0, 8) and draw(0, 7) != draw(1, 7)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(("size", "eligible"), [(2, 2), (8, 8), (8, 5), (8, 2)])
def test_pairs_take_their_share(rate: float, size: int, eligible: int) -> None:
    steps = [draw_pairs(range(eligible), size, rate=rate, seed=3, step=step) for step in range(400)]
    for pairs in steps:
        assert all(pair.face != pair.voice for pair in pairs)
        assert len({pair.face for pair in pairs}) == len({pair.voice for pair in pairs}) == len(pairs)
        assert {p.face for p in pairs} | {p.voice for p in pairs} <= set(range(eligible))
        assert len(pairs) < size, "a clip with a label is always left"
    wanted = rate * size
    floor, ceiling = (min(int(wanted) + extra, eligible, size - 1) for extra in (0, 1))
    expected = floor + (wanted - int(wanted)) * (ceiling - floor)
    assert np.mean([len(pairs) for pairs in steps]) == pytest.approx(expected, abs=0.08)


def test_nobody_is_a_partner_alone() -> None:
    assert draw_pairs([3], 8, rate=0.9, seed=0, step=0) == []
    assert draw_pairs([], 8, rate=0.9, seed=0, step=0) == []


def test_pairs_do_not_depend_on_the_number_of_processes(qwen25: OmniBackbone) -> None:
    """Two accumulated batches of one process, and one batch on each of two: the same global batch, the same pairs."""
    own, model = adapted(qwen25, "lora")
    batches = [training_batch(own), training_batch(own, LABELS[::-1])]

    def recombined(tuner: EmotionTuner, data: OmniBatch, step: int) -> list[str]:
        assert tuner.mixer is not None
        mixed = tuner.mixer.mix(data, step)
        assert mixed is not None
        return [clip.id for clip in mixed.recombined.clips]

    single, (first, second) = tuner_of(own, model)[0], (tuner_of(own, model)[0] for _ in range(2))
    for step in range(3):
        alone = [recombined(single, data, step) for data in batches]  # the optimiser steps after both
        assert alone == [recombined(first, batches[0], step), recombined(second, batches[1], step)]


# -- recombined batches ----------------------------------------------------------------------------------------------


def test_a_batch_comes_apart_and_together_again(backbone: OmniBackbone) -> None:
    own = fresh(backbone)
    data = training_batch(own)
    samples = split_samples(data)
    assert same_batch(collate(samples, own.processor.tokenizer.pad_token_id), data)
    builder = SampleBuilder(own.processor, own.family, Prompt())
    literal = [builder.build(s.clip, s.media) for s in samples]
    cut = [without_answer(s) for s in samples]
    pad = own.processor.tokenizer.pad_token_id
    assert same_batch(collate(cut, pad), collate(literal, pad))


def literal_sample(
    own: OmniBackbone, face: Sample, voice: Sample, text: str | None, interleave: bool = False
) -> Sample:
    clip = replace(face.clip, text=text, audio=voice.clip.audio)
    media = MediaBatch(face.media.videos, voice.media.audios)
    return SampleBuilder(own.processor, own.family, Prompt(), interleave=interleave).build(clip, media)


@pytest.mark.parametrize(("keep", "interleave"), [("never", False), ("agree", False), ("agree", True)])
def test_recombined_clips_are_built_from_one_face_and_another_voice(
    backbone: OmniBackbone, keep: str, interleave: bool
) -> None:
    own, model = adapted(backbone, "lora")
    tuner, _ = tuner_of(own, model, keep_transcript=keep, interleave=interleave)
    data, pad = training_batch(own, interleave=interleave), own.processor.tokenizer.pad_token_id
    assert tuner.mixer is not None
    kept_text = 0
    for step in range(6):
        pairs = draw_pairs(sorted(ELIGIBLE), len(data), rate=0.5, seed=0, step=step)
        mixed = tuner.mixer.mix(data, step)
        assert mixed is not None
        samples, expected = split_samples(data), []
        for pair in pairs:
            agrees = keep == "agree" and LABELS[pair.face] == LABELS[pair.voice]
            kept_text += agrees and data.clips[pair.face].text is not None
            text = data.clips[pair.face].text if agrees else None
            expected.append(literal_sample(own, samples[pair.face], samples[pair.voice], text, interleave))
        assert same_batch(mixed.recombined, collate(expected, pad))
        for pair, clip in zip(pairs, mixed.recombined.clips, strict=True):
            assert clip.id == f"clip-{pair.face}+clip-{pair.voice}" and clip.label is None
        assert mixed.untouched.clips == [c for i, c in enumerate(data.clips) if i not in {p.face for p in pairs}]
        rest = [s for i, s in enumerate(samples) if i not in {p.face for p in pairs}]
        assert same_batch(mixed.untouched, collate(rest, pad))
    assert bool(kept_text) == (keep == "agree")


def test_clips_without_picture_or_sound_never_take_part(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model, rate=0.9)
    data = training_batch(own)
    assert tuner.mixer is not None
    for step in range(5):
        mixed = tuner.mixer.mix(data, step)
        assert mixed is not None
        used = {name for clip in mixed.recombined.clips for name in clip.id.split("+")}
        assert used <= {f"clip-{index}" for index in ELIGIBLE}


def test_pairs_that_would_be_too_long_are_left_alone(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model, rate=0.5)
    data = training_batch(own)
    assert tuner.mixer is not None
    lengths = []
    for step in range(6):
        mixed = tuner.mixer.mix(data, step)
        assert mixed is not None
        lengths += mixed.recombined.attention_mask.sum(1).tolist()
    tuner.mixer.builder.max_tokens = limit = sorted(set(lengths))[0]
    for step in range(6):
        mixed = tuner.mixer.mix(data, step)
        assert mixed is None or mixed.recombined.attention_mask.sum(1).max() <= limit


# -- target, weights -------------------------------------------------------------------------------------------------


def test_target_by_hand() -> None:
    p_v, p_a = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.2, 0.4, 0.4]])
    w = reliability(p_v, p_a, sharpness=2.0)
    assert w.item() == pytest.approx(0.64 / (0.64 + 0.16))
    expected = torch.tensor([[0.8 * 0.8 + 0.2 * 0.2, 0.8 * 0.1 + 0.2 * 0.4, 0.8 * 0.1 + 0.2 * 0.4]])
    torch.testing.assert_close(pooled_target(p_v, p_a, w), expected)
    assert reliability(p_v, p_a, sharpness=0.0).item() == 0.5
    assert reliability(p_v, p_a, sharpness=1e4).item() == 1.0


def test_divergence_is_kl_from_the_target() -> None:
    q = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    p = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]])
    found = mixing_divergence(p.log(), q)
    torch.testing.assert_close(found, torch.tensor([0.5 * np.log(2.0), 0.0], dtype=torch.float32))


def test_weights_by_hand() -> None:
    p_v = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    p_a = torch.tensor([[0.3, 0.7], [0.1, 0.9]])
    w = reliability(p_v, p_a, 1.0)
    q = pooled_target(p_v, p_a, w)
    assert sample_weights(p_a, q, p_v, p_a, w).tolist() == [1.0, 1.0]
    assert visual_share(p_a, p_v, p_a).item() == 0.0 and visual_share(p_v, p_v, p_a).item() == pytest.approx(1.0)
    hears, sees = (sample_weights(p, q, p_v, p_a, w, weak_modality=2.0) for p in (p_a, p_v))
    torch.testing.assert_close(hears, (1 + 2 * w) / (1 + 2 * w).mean())  # it ignores the face: faces count more
    torch.testing.assert_close(sees, (1 + 2 * (1 - w)) / (1 + 2 * (1 - w)).mean())
    hard = 1 + 3 * (p_a - q).abs().sum(-1) / 2
    torch.testing.assert_close(sample_weights(p_a, q, p_v, p_a, w, hard_sample=3.0), hard / hard.mean())


# -- student and teacher ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_pass_scores_equal_two_pass_scores_and_gradients(
    backbone: OmniBackbone, method: str, checkpointing: bool
) -> None:
    own, model = adapted(backbone, method)
    samples = [without_answer(sample) for sample in split_samples(training_batch(own))]
    prompts = collate(samples, own.processor.tokenizer.pad_token_id)
    trie = LabelTrie.of(Prompt().labels, own.processor.tokenizer)
    model.train()
    expected = label_log_probs(own, prompts, trie)
    reference = gradients(model, expected.log_softmax(-1)[:, 0].sum())
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    found, _ = one_pass_log_probs(own, prompts, trie)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients(model, found.log_softmax(-1)[:, 0].sum()).items():
        torch.testing.assert_close(gradient, reference[name], rtol=1e-3, atol=1e-5, msg=name)


def literal_step(tuner: EmotionTuner, data: OmniBatch, mixing: ConflictMixing, step: int) -> tuple[Tensor, Tensor]:
    """The divergence and the target, clip by clip, from evaluation's own functions."""
    own, model, pad = tuner.backbone, tuner.network, tuner.backbone.processor.tokenizer.pad_token_id
    divergences, targets = [], []
    for pair in draw_pairs(sorted(ELIGIBLE), len(data), rate=mixing.rate, seed=mixing.seed, step=step):
        samples = split_samples(data)
        builder = SampleBuilder(own.processor, own.family, Prompt())
        readings = []
        for index, modality in ((pair.face, "visual"), (pair.voice, "audio")):
            prompt = collate([builder.build(data.clips[index], samples[index].media)], pad)
            with torch.no_grad(), eval_mode(model):
                if mixing.teacher == "frozen":
                    with model.disable_adapter():
                        readings.append(unimodal_distributions(own, prompt, tuner.trie)[modality][0])
                else:
                    readings.append(unimodal_distributions(own, prompt, tuner.trie)[modality][0])
        p_v = readings[0] ** (1 / mixing.visual_temperature)
        p_a = readings[1] ** (1 / mixing.audio_temperature)
        p_v, p_a = p_v / p_v.sum(), p_a / p_a.sum()
        w = p_v.max() ** mixing.sharpness / (p_v.max() ** mixing.sharpness + p_a.max() ** mixing.sharpness)
        q = w * p_v + (1 - w) * p_a
        sample = literal_sample(own, samples[pair.face], samples[pair.voice], None)
        log_p = label_log_probs(own, collate([sample], pad), tuner.trie)[0].log_softmax(-1)
        divergences.append((q * (q.log() - log_p)).sum())
        targets.append(q)
    return torch.stack(divergences).mean(), torch.stack(targets)


@pytest.mark.parametrize("teacher", ["frozen", "adapted"])
def test_loss_and_gradient_equal_the_literal_ones(backbone: OmniBackbone, method: str, teacher: str) -> None:
    own, model = adapted(backbone, method)
    settings = {"teacher": teacher, "visual_temperature": 0.5, "audio_temperature": 2.0, "weight": 0.7}
    tuner, logged = tuner_of(own, model, **settings)
    assert tuner.mixer is not None
    data = training_batch(own)
    divergence, _ = literal_step(tuner, data, tuner.mixer.config, step=0)
    mixed = tuner.mixer.mix(data, 0)
    assert mixed is not None
    cross_entropy, state = tuner.answer_step(mixed.untouched)
    penalty = 0.0
    if method == "mose":  # over all clips of the batch, whichever pass they ran in
        student = tuner.mixer.step(mixed).state
        balances = [s.regularisers()["gate_balance"] for s in (state, student)]
        penalty = 0.3 * torch.cat(balances).mean()
    expected = cross_entropy + 0.7 * divergence + penalty
    reference = gradients(model, expected)
    loss = tuner.training_step(ClipBatch(data), 0)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients(model, loss).items():
        torch.testing.assert_close(gradient, reference[name], rtol=2e-3, atol=2e-5, msg=name)
    assert logged["train/mixing_loss"] == pytest.approx(float(divergence.detach()), rel=1e-3, abs=1e-5)
    assert logged["train/loss"] == pytest.approx(float(cross_entropy.detach()), rel=1e-4)
    assert 0 < logged["train/mixing_visual_share"] < 1 and 0 <= logged["train/mixing_student_visual_share"] <= 1


def test_extras_change_the_weights_alone(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    data = training_batch(own)
    plain, weighted = (tuner_of(own, model, hard_sample_weight=h, weak_modality_weight=h)[0] for h in (0.0, 5.0))
    assert plain.mixer is not None and weighted.mixer is not None
    first, second = (t.mixer.step(t.mixer.mix(data, 0)) for t in (plain, weighted))
    assert first.logs["mixing_visual_share"] == second.logs["mixing_visual_share"]
    assert first.loss != second.loss


def test_rate_zero_is_plain_training_bitwise(qwen25: OmniBackbone, method: str) -> None:
    losses, grads = [], []
    for options in ({}, {"mixing": ConflictMixing(rate=0.0)}):
        own, model = adapted(qwen25, method, dropout=0.1)
        tuner = EmotionTuner(own, model, Prompt(), Tuning(), Answering(), **options)
        tuner.log = lambda *_, **__: None  # type: ignore[method-assign]
        tuner.on_train_epoch_start()
        torch.manual_seed(1)
        loss = tuner.training_step(ClipBatch(training_batch(own)), 0)
        losses.append(loss)
        grads.append(gradients(model, loss))
    assert torch.equal(*losses)
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def snapshot(own: OmniBackbone, model: torch.nn.Module) -> dict[str, Any]:
    conductor = conductor_of(own)
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "rope": getattr(own.model, "rope_deltas", None),
        "random": torch.get_rng_state(),
        "states": [] if conductor is None else list(conductor.states),
        "disabled": getattr(model, "_adapters_disabled", None),
    }


@pytest.mark.parametrize("teacher", ["frozen", "adapted"])
def test_the_teacher_leaves_no_trace(backbone: OmniBackbone, method: str, teacher: str) -> None:
    own, model = adapted(backbone, method, dropout=0.2)
    tuner, _ = tuner_of(own, model, teacher=teacher)
    assert tuner.mixer is not None
    prompts = [without_answer(s) for i, s in enumerate(split_samples(training_batch(own))) if i in ELIGIBLE]
    before = snapshot(own, model)
    first = tuner.mixer.reader(prompts, "visual")
    after = snapshot(own, model)
    assert not first.requires_grad and own.language_model.training
    assert all(torch.equal(before["weights"][name], value) for name, value in after.pop("weights").items())
    assert torch.equal(before["random"], after.pop("random")), "no dropout in a teacher"
    assert all(before[name] == value for name, value in after.items())


def test_a_teacher_between_forward_and_backward_changes_no_gradient(backbone: OmniBackbone, method: str) -> None:
    own, model = adapted(backbone, method)
    data = training_batch(own)
    found = []
    for teacher in (None, "frozen", "adapted"):
        tuner, _ = tuner_of(own, model, teacher=teacher or "frozen")
        model.gradient_checkpointing_enable({"use_reentrant": False})
        assert tuner.mixer is not None
        loss, _ = tuner.answer_step(data)
        if teacher:
            tuner.mixer.reader([without_answer(split_samples(data)[0])], "visual")
        loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert found[0] and all(torch.equal(found[0][n], other[n]) for other in found[1:] for n in found[0])


def test_a_frozen_teacher_reads_each_clip_once(qwen25: OmniBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model)
    assert tuner.mixer is not None
    reader = tuner.mixer.reader
    prompts = [without_answer(s) for i, s in enumerate(split_samples(training_batch(own))) if i in ELIGIBLE]
    first = reader(prompts[:2], "audio")
    both = reader(prompts, "audio")
    assert torch.equal(both[:2], first) and len(reader.known) == len(prompts)
    torch.testing.assert_close(both, reader.read(prompts, "audio"), rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # training goes on: a frozen teacher says what it said
        for parameter in model.parameters():
            parameter.add_(0.3 if parameter.requires_grad else 0.0)
    torch.testing.assert_close(both, reader.read(prompts, "audio"), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(reader, "read", lambda *_: pytest.fail("read again"))
    assert torch.equal(reader(prompts[::-1], "audio"), both.flip(0))


def test_an_adapted_teacher_follows_the_adapter(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model, teacher="adapted")
    assert tuner.mixer is not None
    prompts = [without_answer(split_samples(training_batch(own))[0])]
    before = tuner.mixer.reader(prompts, "visual")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 if parameter.requires_grad else 0.0)
    assert not torch.allclose(tuner.mixer.reader(prompts, "visual"), before, atol=1e-3)
    assert tuner.mixer.reader.known == {}


# -- no labels -------------------------------------------------------------------------------------------------------


class Forbidden(str):
    """A label that may not be looked at."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("mixing read a label")

    __hash__ = str.__hash__


def with_forbidden_labels(data: OmniBatch) -> OmniBatch:
    """The same batch; whoever compares a label of its clips fails."""
    clips = []
    for clip in data.clips:
        clips.append(replace(clip, modality_labels=ModalityLabels()))
        object.__setattr__(clips[-1], "label", Forbidden(clip.label))
        for name in ("visual", "audio"):
            object.__setattr__(clips[-1].modality_labels, name, Forbidden("x"))
    return replace(data, clips=clips)


def test_mixing_reads_no_label(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    outcomes = []
    for labels in (LABELS, LABELS[::-1]):
        tuner, _ = tuner_of(own, model)
        assert tuner.mixer is not None
        mixed = tuner.mixer.mix(with_forbidden_labels(training_batch(own, labels)), 0)
        assert mixed is not None and (mixed.recombined.labels == -100).all()
        step = tuner.mixer.step(mixed)
        outcomes.append([float(step.loss.detach()), float(step.logs["mixing_visual_share"])])
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-4)


def test_the_agreement_rule_is_what_reads_labels(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model, keep_transcript="agree")
    assert tuner.mixer is not None
    with pytest.raises(AssertionError, match="mixing read a label"):
        tuner.mixer.mix(with_forbidden_labels(training_batch(own)), 0)


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.0}, r"rate=1.0 must be a share .* \[0, 1\)"),
        ({"weight": 0.0}, "weight=0.0 must be positive"),
        ({"sharpness": -1.0}, "sharpness=-1.0 must not be negative"),
        ({"teacher": "oracle"}, "teacher='oracle' must be 'frozen' or 'adapted'"),
        ({"keep_transcript": "always"}, "keep_transcript='always'"),
        ({"visual_temperature": 0.0, "hard_sample_weight": -1.0}, "visual_temperature=0.0 .* hard_sample_weight=-1.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConflictMixing(**settings)


def test_what_mixing_needs_is_said(qwen25: OmniBackbone) -> None:
    with pytest.raises(ValueError, match=r"pass builder=data.builder"):
        EmotionTuner(qwen25, qwen25.model, Prompt(), Tuning(), Answering(), mixing=ConflictMixing(rate=0.5))
    tuner, _ = tuner_of(fresh(qwen25), torch.nn.Identity())
    with pytest.raises(ValueError, match=r"frozen teacher needs a PEFT model.*mixing.teacher=adapted"):
        tuner.training_step(ClipBatch(training_batch(tuner.backbone)), 0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bitwise comparisons, and a machine with other work to do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
