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
from mosear.backbones.sequences import open_states, sequence_state
from mosear.data.batches import split_samples, without_answer
from mosear.data.budget import MediaBudget
from mosear.data.clip import ModalityLabels
from mosear.data.datamodule import ClipDataModule
from mosear.data.dataset import ClipBatch
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, Sample, SampleBuilder, collate
from mosear.experts import MoSEConfig
from mosear.inference.distributions import log_odds
from mosear.inference.scoring import LabelTrie, label_log_probs
from mosear.inference.unimodal import predictions_alone
from mosear.methods.answer_tuning import AnswerTuning
from mosear.methods.answer_tuning.method import answer_step
from mosear.methods.conflict_mixing import ConflictMixing
from mosear.methods.conflict_mixing.mixer import ConflictMixer
from mosear.methods.conflict_mixing.pairs import Sources, draw_sources
from mosear.methods.conflict_mixing.target import (
    Scale,
    agreement,
    mixing_divergence,
    pooled_target,
    sample_weights,
    visual_share,
    visual_weight,
)
from mosear.methods.conflict_mixing.teacher import eval_mode
from mosear.methods.omni_system import OmniSystem
from mosear.methods.processes import Part
from mosear.roles import TokenRole
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
) -> tuple[OmniSystem, dict[str, float]]:
    """A system without a trainer, and what it logs."""
    data = ClipDataModule(backbone=own, prompt=Prompt(), budget=MediaBudget(), interleave=interleave)
    method = ConflictMixing(**{"rate": 0.5, "scale": "none", **mixing})
    tuner = OmniSystem(own, model, data, method=method)
    if method.scale == "none":
        method.setup(tuner)
    else:  # there are no training clips to read
        method.system, method.mixer = tuner, ConflictMixer(method, own, model, tuner.builder, tuner.trie)
    logged: dict[str, float] = {}
    tuner.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    tuner.on_train_epoch_start()
    return tuner, logged


def mixer_of(tuner: OmniSystem) -> ConflictMixer:
    assert isinstance(tuner.method, ConflictMixing) and tuner.method.mixer is not None
    return tuner.method.mixer


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


# -- sources ---------------------------------------------------------------------------------------------------------


def drawn(eligible: Any, size: int, step: int = 0, **options: Any) -> list[Sources]:
    return draw_sources(eligible, size, step=step, **{"rate": 0.5, "transcript": "either", "seed": 0, **options})


def test_sources_are_a_function_of_seed_and_step() -> None:
    def draw(seed: int, step: int) -> list[Sources]:
        torch.manual_seed(np.random.randint(1 << 30))  # global generators do not matter
        return drawn(range(16), 16, step, seed=seed)

    assert draw(0, 7) == draw(0, 7)
    assert draw(0, 7) != draw(0, 8) and draw(0, 7) != draw(1, 7)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(("size", "eligible"), [(2, 2), (8, 8), (8, 5), (8, 2)])
def test_sources_take_their_share(rate: float, size: int, eligible: int) -> None:
    steps = [drawn(range(eligible), size, step, rate=rate, seed=3) for step in range(400)]
    for own in steps:
        assert all(s.face != s.voice for s in own)
        assert len({s.face for s in own}) == len({s.voice for s in own}) == len(own)
        assert {s.face for s in own} | {s.voice for s in own} <= set(range(eligible))
        assert len(own) < size, "a clip with a label is always left"
    wanted = rate * size
    floor, ceiling = (min(int(wanted) + extra, eligible, size - 1) for extra in (0, 1))
    expected = floor + (wanted - int(wanted)) * (ceiling - floor)
    assert np.mean([len(own) for own in steps]) == pytest.approx(expected, abs=0.08)


def test_whose_words() -> None:
    def origins(transcript: str) -> list[str]:
        found = []
        for step in range(300):
            for s in drawn(range(8), 8, step, transcript=transcript):
                known = {None: "none", s.face: "face", s.voice: "voice"}
                found.append(known.get(s.words, "third"))
        return found

    assert set(origins("none")) == {"none"}
    either, any_ = origins("either"), origins("any")
    assert set(either) == {"face", "voice"} and set(any_) == {"face", "voice", "third", "none"}
    assert either.count("face") / len(either) == pytest.approx(0.5, abs=0.05)
    assert any_.count("none") / len(any_) == pytest.approx(0.25, abs=0.05)


def test_a_clip_alone_has_no_partner() -> None:
    assert drawn([3], 8, rate=0.9) == []
    assert drawn([], 8, rate=0.9) == []


def test_sources_depend_on_seed_step_and_batch_alone(qwen25: OmniBackbone) -> None:
    """Not on what a process has mixed before: two accumulated batches of one, and one batch for each of two others."""
    own, model = adapted(qwen25, "lora")
    batches = [training_batch(own), training_batch(own, LABELS[::-1])]

    def recombined(tuner: OmniSystem, data: OmniBatch, step: int) -> list[tuple[str, str | None]]:
        mixed = mixer_of(tuner).mix(data, step)
        assert mixed is not None
        return [(clip.id, clip.text) for clip in mixed.recombined.batch.clips]

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


@pytest.mark.parametrize(("transcript", "interleave"), [("none", False), ("either", False), ("any", True)])
def test_recombined_clips_are_built_from_their_sources(
    backbone: OmniBackbone, transcript: str, interleave: bool
) -> None:
    own, model = adapted(backbone, "lora")
    tuner, _ = tuner_of(own, model, transcript=transcript, interleave=interleave)
    data, pad = training_batch(own, interleave=interleave), own.processor.tokenizer.pad_token_id
    texts = 0
    for step in range(6):
        sources = drawn(sorted(ELIGIBLE), len(data), step, transcript=transcript)
        mixed = mixer_of(tuner).mix(data, step)
        assert mixed is not None
        samples, expected = split_samples(data), []
        for each in sources:
            text = None if each.words is None else data.clips[each.words].text
            texts += text is not None
            expected.append(literal_sample(own, samples[each.face], samples[each.voice], text, interleave))
        assert same_batch(mixed.recombined.batch, collate(expected, pad))
        for each, clip, words in zip(sources, mixed.recombined.batch.clips, mixed.words, strict=True):
            assert clip.id == f"clip-{each.face}+clip-{each.voice}" and clip.label is None
            assert (None if words is None else words.clip.text) == clip.text
        taken = {each.face for each in sources}
        assert mixed.untouched.batch.clips == [c for i, c in enumerate(data.clips) if i not in taken]
        assert same_batch(mixed.untouched.batch, collate([s for i, s in enumerate(samples) if i not in taken], pad))
    assert bool(texts) == (transcript != "none")


def test_clips_without_picture_or_sound_never_take_part(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model, rate=0.9)
    data = training_batch(own)
    for step in range(5):
        mixed = mixer_of(tuner).mix(data, step)
        assert mixed is not None
        used = {name for clip in mixed.recombined.batch.clips for name in clip.id.split("+")}
        assert used <= {f"clip-{index}" for index in ELIGIBLE}


def test_sources_that_would_make_a_clip_too_long_are_left_alone(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model, rate=0.5)
    data = training_batch(own)
    lengths = []
    for step in range(6):
        mixed = mixer_of(tuner).mix(data, step)
        assert mixed is not None
        lengths += mixed.recombined.batch.attention_mask.sum(1).tolist()
    mixer_of(tuner).builder.max_tokens = limit = sorted(set(lengths))[0]
    for step in range(6):
        mixed = mixer_of(tuner).mix(data, step)
        assert mixed is None or mixed.recombined.batch.attention_mask.sum(1).max() <= limit


# -- target, weights -------------------------------------------------------------------------------------------------


def test_log_odds_by_hand() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    expected = torch.tensor([0.7 / 0.3, 0.8 / 0.2]).log()
    torch.testing.assert_close(log_odds(p.log()), expected)
    torch.testing.assert_close(log_odds(p.log() + 5), expected)  # normalised or not
    torch.testing.assert_close(log_odds(p.log(), torch.tensor([1, 0])), torch.tensor([0.2 / 0.8, 0.1 / 0.9]).log())
    sure = torch.tensor([[0.0, -60.0], [0.0, -50.0]])
    torch.testing.assert_close(log_odds(sure), torch.tensor([60.0, 50.0]))  # both are 1.0 as probabilities


def test_scale_by_hand() -> None:
    scale = Scale.of(torch.tensor([1.0, 3.0, 5.0]))
    assert (scale.mean, scale.std) == (3.0, 2.0)
    assert scale(torch.tensor([7.0])).item() == 2.0
    assert Scale.of(torch.tensor([2.0, 2.0])).std > 0


def test_agreement_by_hand() -> None:
    evidence = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])
    p_text = torch.tensor([[0.9, 0.1], [0.9, 0.1], [1.0, 0.0], [float("nan")] * 2])
    torch.testing.assert_close(agreement(evidence, p_text), torch.tensor([0.9, 0.5, 1e-4, 1.0]).log())


def test_target_by_hand() -> None:
    e_v, e_a = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.2, 0.4, 0.4]])
    s_v, s_a = torch.tensor([1.5]), torch.tensor([1.0])
    w = visual_weight(s_v, s_a, sharpness=2.0)
    assert w.item() == pytest.approx(1 / (1 + np.exp(-1.0)))
    supported = visual_weight(s_v, s_a, 2.0, support=torch.tensor([-1.0]))
    assert supported.item() == pytest.approx(0.5)
    expected = torch.tensor([[w.item() + (1 - w.item()) * 0.2, (1 - w.item()) * 0.4, (1 - w.item()) * 0.4]])
    torch.testing.assert_close(pooled_target(e_v, e_a, w), expected)
    assert visual_weight(s_v, s_a, sharpness=0.0).item() == 0.5
    assert visual_weight(s_v, s_a, sharpness=1e4).item() == 1.0


def test_divergence_is_kl_from_the_target() -> None:
    q = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    p = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]])
    found = mixing_divergence(p.log(), q)
    torch.testing.assert_close(found, torch.tensor([0.5 * np.log(2.0), 0.0], dtype=torch.float32))


def test_weights_by_hand() -> None:
    p_v = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    p_a = torch.tensor([[0.3, 0.7], [0.1, 0.9]])
    w = torch.tensor([0.75, 0.4])
    q = pooled_target(p_v, p_a, w)
    assert sample_weights(p_a, q, p_v, p_a, w).tolist() == [1.0, 1.0]
    assert visual_share(p_a, p_v, p_a).item() == 0.0 and visual_share(p_v, p_v, p_a).item() == pytest.approx(1.0)
    hears, sees = (sample_weights(p, q, p_v, p_a, w, weak_modality=2.0) for p in (p_a, p_v))
    torch.testing.assert_close(hears, (1 + 2 * w) / (1 + 2 * w).mean())  # it ignores the face: faces count more
    torch.testing.assert_close(sees, (1 + 2 * (1 - w)) / (1 + 2 * (1 - w)).mean())
    hard = 1 + 3 * (p_a - q).abs().sum(-1) / 2
    torch.testing.assert_close(sample_weights(p_a, q, p_v, p_a, w, hard_sample=3.0), hard / hard.mean())


# -- student and teacher ---------------------------------------------------------------------------------------------


def literal_label_scores(own: OmniBackbone, prompts: list[Sample], trie: LabelTrie) -> Tensor:
    """A pass of its own for each prompt and label, causal, with the label's tokens behind the prompt."""
    scores = []
    for sample in prompts:
        batch = collate([sample], own.processor.tokenizer.pad_token_id)
        for path in trie.paths:
            tokens = torch.tensor([[token for _, token in path]])
            count, steps = tokens.shape[1] - 1, torch.arange(1, tokens.shape[1])
            ids = torch.cat([batch.input_ids, tokens[:, :count]], dim=1)
            positions = torch.cat([batch.position_ids, batch.position_ids.max() + steps.expand(3, 1, -1)], dim=-1)
            roles = torch.cat([batch.roles, torch.full((1, count), int(TokenRole.TEXT))], dim=1)
            prompt_mask = torch.cat([batch.prompt_mask, torch.zeros(1, count, dtype=torch.bool)], dim=1)
            embeds, extra = own.embed(ids, batch.media)
            with sequence_state(own, roles=roles, prompt_mask=prompt_mask):
                hidden = own.hidden_states(embeds, torch.ones_like(ids), positions, **extra)
            log_p = own.lm_head(hidden[0, -count - 1 :]).float().log_softmax(-1)
            scores.append(log_p.gather(1, tokens[0][:, None]).sum())
    return torch.stack(scores).view(len(prompts), -1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_scores_and_gradients_equal_a_pass_per_label(backbone: OmniBackbone, method: str, checkpointing: bool) -> None:
    own, model = adapted(backbone, method)
    samples = [without_answer(sample) for sample in split_samples(training_batch(own))]
    prompts = collate(samples, own.processor.tokenizer.pad_token_id)
    trie = LabelTrie.of(Prompt().labels, own.processor.tokenizer)
    model.train()
    expected = literal_label_scores(own, samples, trie)
    reference = gradients(model, expected.log_softmax(-1)[:, 0].sum())
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    found = label_log_probs(own, prompts, trie)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients(model, found.log_softmax(-1)[:, 0].sum()).items():
        torch.testing.assert_close(gradient, reference[name], rtol=1e-3, atol=1e-5, msg=name)


def literal_step(tuner: OmniSystem, data: OmniBatch, mixing: ConflictMixing, step: int) -> Tensor:
    """The divergence, clip by clip, from evaluation's own functions."""
    own, model, pad = tuner.backbone, tuner.network, tuner.backbone.processor.tokenizer.pad_token_id
    scales = mixer_of(tuner).scales
    assert scales is not None
    samples = split_samples(data)
    builder = SampleBuilder(own.processor, own.family, Prompt())

    def read(index: int, modality: str) -> Tensor:
        prompt = collate([builder.build(data.clips[index], samples[index].media)], pad)
        with torch.no_grad(), eval_mode(model):
            if mixing.teacher == "adapted":
                return predictions_alone(own, prompt, tuner.trie)[modality][0]
            with model.disable_adapter():
                return predictions_alone(own, prompt, tuner.trie)[modality][0]

    divergences = []
    for each in drawn(sorted(ELIGIBLE), len(data), step, transcript=mixing.transcript):
        strength, evidence = {}, {}
        for index, modality in ((each.face, "visual"), (each.voice, "audio")):
            p = read(index, modality)
            label = tuner.trie.labels.index(str(data.clips[index].label))
            of = label if mixing.evidence == "label" else int(p.argmax())
            scale = scales[modality]
            strength[modality] = ((p[of] / (1 - p[of])).log() - scale.mean) / scale.std
            evidence[modality] = torch.eye(len(p))[label] if mixing.evidence == "label" else p
        support: Tensor | float = mixing.visual_prior
        text = None if each.words is None else data.clips[each.words].text
        if each.words is not None and text is not None:
            p_text = read(each.words, "text")
            fits = {m: (evidence[m] * p_text).sum().clamp(min=1e-4).log() for m in evidence}
            support = support + mixing.agreement * (fits["visual"] - fits["audio"])
        w = torch.sigmoid(mixing.sharpness * (strength["visual"] - strength["audio"]) + support)
        q = w * evidence["visual"] + (1 - w) * evidence["audio"]
        sample = literal_sample(own, samples[each.face], samples[each.voice], text)
        log_p = label_log_probs(own, collate([sample], pad), tuner.trie)[0].log_softmax(-1)
        divergences.append((torch.xlogy(q, q) - q * log_p).sum())
    return torch.stack(divergences).mean()


@pytest.mark.parametrize("evidence", ["label", "reading"])
@pytest.mark.parametrize("teacher", ["frozen", "adapted"])
def test_loss_and_gradient_equal_the_literal_ones(
    backbone: OmniBackbone, method: str, teacher: str, evidence: str
) -> None:
    own, model = adapted(backbone, method)
    settings = {"teacher": teacher, "evidence": evidence, "agreement": 0.8, "transcript": "any", "weight": 0.7}
    settings["visual_prior"] = 0.6
    tuner, logged = tuner_of(own, model, **settings)
    mixer_of(tuner).scales = {"visual": Scale(0.3, 0.5), "audio": Scale(-0.2, 2.0)}
    data = training_batch(own)
    divergence = literal_step(tuner, data, mixer_of(tuner).config, step=0)
    mixed = mixer_of(tuner).mix(data, 0)
    assert mixed is not None
    cross_entropy, state, _ = answer_step(tuner, mixed.untouched)
    penalty = 0.0
    if method == "mose":  # over all clips of the batch, whichever pass they ran in
        student = mixer_of(tuner).step(mixed).state
        balances = [s.regularisers()["gate_balance"].values for s in (state, student)]
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


def test_a_prior_adds_to_the_log_odds_of_every_face(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    shares = []
    for prior in (0.0, 1.5):
        mixer = mixer_of(tuner_of(own, model, visual_prior=prior)[0])
        shares.append(mixer.target_parts(mixer.mix(training_batch(own), 0))[2])
    torch.testing.assert_close(shares[1].logit(), shares[0].logit() + 1.5, rtol=1e-4, atol=1e-3)


def test_extras_change_the_weights_alone(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    data = training_batch(own)
    plain, weighted = (tuner_of(own, model, hard_sample_weight=h, weak_modality_weight=h)[0] for h in (0.0, 5.0))
    first, second = (m.step(m.mix(data, 0)) for m in map(mixer_of, (plain, weighted)))
    assert first.logs["mixing_visual_share"] == second.logs["mixing_visual_share"]
    assert first.loss != second.loss


def test_nothing_to_recombine_is_answer_tuning_bitwise(qwen25: OmniBackbone, method: str) -> None:
    losses, grads = [], []
    for tuning in (AnswerTuning(), ConflictMixing(scale="none")):
        own, model = adapted(qwen25, method, dropout=0.1)
        tuner, _ = tuner_of(own, model)
        tuner.method = tuning
        tuning.setup(tuner)
        alone = [s for i, s in enumerate(split_samples(training_batch(own))) if i not in ELIGIBLE]
        data = collate(alone, own.processor.tokenizer.pad_token_id)
        torch.manual_seed(1)
        loss = tuner.training_step(ClipBatch(data), 0)
        losses.append(loss)
        grads.append(gradients(model, loss))
    assert torch.equal(*losses)
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def snapshot(own: OmniBackbone, model: torch.nn.Module) -> dict[str, Any]:
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "rope": getattr(own.model, "rope_deltas", None),
        "random": torch.get_rng_state(),
        "states": list(open_states(own.model)),
        "disabled": getattr(model, "_adapters_disabled", None),
    }


@pytest.mark.parametrize("teacher", ["frozen", "adapted"])
def test_the_teacher_leaves_no_trace(backbone: OmniBackbone, method: str, teacher: str) -> None:
    own, model = adapted(backbone, method, dropout=0.2)
    tuner, _ = tuner_of(own, model, teacher=teacher)
    prompts = [without_answer(s) for i, s in enumerate(split_samples(training_batch(own))) if i in ELIGIBLE]
    before = snapshot(own, model)
    first = mixer_of(tuner).teacher(prompts, "visual")
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
        loss, _, _ = answer_step(tuner, Part.of_sampler(data))
        if teacher:
            mixer_of(tuner).teacher([without_answer(split_samples(data)[0])], "visual")
        loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert found[0] and all(torch.equal(found[0][n], other[n]) for other in found[1:] for n in found[0])


def test_a_frozen_teacher_reads_each_clip_once(qwen25: OmniBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model)
    reader = mixer_of(tuner).teacher
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
    prompts = [without_answer(split_samples(training_batch(own))[0])]
    before = mixer_of(tuner).teacher(prompts, "visual")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 if parameter.requires_grad else 0.0)
    assert not torch.allclose(mixer_of(tuner).teacher(prompts, "visual"), before, atol=1e-3)
    assert mixer_of(tuner).teacher.known == {}


# -- which labels ------------------------------------------------------------------------------------------------------


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


def test_readings_need_no_label(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    outcomes = []
    for labels in (LABELS, LABELS[::-1]):
        tuner, _ = tuner_of(own, model, evidence="reading")
        mixed = mixer_of(tuner).mix(with_forbidden_labels(training_batch(own, labels)), 0)
        assert mixed is not None and (mixed.recombined.batch.labels == -100).all()
        step = mixer_of(tuner).step(mixed)
        outcomes.append([float(step.loss.detach()), float(step.logs["mixing_visual_share"])])
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-4)


def test_modality_labels_are_never_read(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model)
    data = with_forbidden_labels(training_batch(own))
    for clip, label in zip(data.clips, LABELS, strict=True):
        object.__setattr__(clip, "label", label)
    mixed = mixer_of(tuner).mix(data, 0)
    assert mixed is not None
    mixer_of(tuner).step(mixed)


# -- scales ----------------------------------------------------------------------------------------------------------


def test_scales_are_those_of_the_given_clips(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model, scale="training")
    mixer = mixer_of(tuner)
    assert mixer.scales is None
    batches = [training_batch(own), training_batch(own, LABELS[::-1])]
    mixer.fit_scales(batches, lambda own_list: own_list)
    assert mixer.scales is not None
    for modality, part in (("visual", "video"), ("audio", "audio")):
        odds = []
        for batch in batches:
            with torch.no_grad(), eval_mode(model), model.disable_adapter():
                p = predictions_alone(own, batch_of_prompts(own, batch), tuner.trie)[modality]
            for kind, clip, row in zip(KINDS, batch.clips, p, strict=True):
                if part in kind:
                    y = tuner.trie.labels.index(str(clip.label))
                    odds.append(float((row[y] / (1 - row[y])).log()))
        assert mixer.scales[modality].mean == pytest.approx(np.mean(odds), abs=1e-3)
        assert mixer.scales[modality].std == pytest.approx(np.std(odds, ddof=1), abs=1e-3)
    split = [mixer.scales]
    mixer.fit_scales(batches[:1], lambda own_list: own_list)  # another process has the rest
    assert mixer.scales != split[0]


def batch_of_prompts(own: OmniBackbone, data: OmniBatch) -> OmniBatch:
    return collate([without_answer(s) for s in split_samples(data)], own.processor.tokenizer.pad_token_id)


def test_scales_need_both_modalities(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    tuner, _ = tuner_of(own, model, scale="training")
    with pytest.raises(ValueError, match=r"0 of the clips read carry visual"):
        mixer_of(tuner).fit_scales([], lambda own_list: own_list)


def test_scales_travel_with_the_checkpoint(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, "lora")
    first, second = (tuner_of(own, model, scale="training")[0] for _ in range(2))
    mixer_of(first).fit_scales([training_batch(own)], lambda own_list: own_list)
    checkpoint: dict[str, Any] = {"state_dict": first.state_dict()}
    first.on_save_checkpoint(checkpoint)
    second.on_load_checkpoint(checkpoint)
    assert second.method is not None
    second.method.setup(second)  # reads no clips: there are none
    assert mixer_of(second).scales == mixer_of(first).scales


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.0}, r"rate=1.0 must lie in \(0, 1\) \(a share of the batch; .*method=answer_tuning\)"),
        ({"weight": 0.0}, "weight=0.0 must be positive"),
        ({"sharpness": -1.0}, "sharpness=-1.0 must not be negative"),
        ({"teacher": "oracle"}, "teacher='oracle' must be one of frozen, adapted"),
        ({"transcript": "always"}, "transcript='always' must be one of none, either, any"),
        ({"agreement": -1.0, "evidence": "x"}, "agreement=-1.0 .* evidence='x'"),
        ({"visual_prior": float("nan")}, "visual_prior=nan must be a finite number"),
        ({"scale_clips": 1}, "scale_clips=1 must be at least 2"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConflictMixing(**settings)


def test_a_frozen_teacher_needs_an_adapter_to_disable(qwen25: OmniBackbone) -> None:
    tuner, _ = tuner_of(fresh(qwen25), torch.nn.Identity())
    with pytest.raises(ValueError, match=r"frozen teacher needs a PEFT model.*method.teacher=adapted"):
        tuner.training_step(ClipBatch(training_batch(tuner.backbone)), 0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bitwise comparisons, and a machine with other work to do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
