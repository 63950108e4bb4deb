"""Label scoring against the literal way: one full forward pass per label over prompt, label and end token, no cache."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.labels import LabelTrie
from mosear.backbones.media import AudioInput, MediaBatch, VideoInput
from mosear.data.prompt import Prompt
from mosear.data.sample import IGNORE, OmniBatch, Sample, collate
from mosear.experts import gate_weights
from mosear.experts.hooks import mose_hooks
from mosear.inference.answerer import Answerer
from mosear.inference.prompts import Prompts
from mosear.inference.scoring import label_log_probs, label_pass
from mosear.inference.unimodal import predictions_alone
from mosear.steering import AttentionReallocation, steer
from tests.helpers.mose_models import adapted, right_padded
from tests.helpers.omni_samples import MIXED, fresh, inject_lora, make_batch, make_sample

LABELS = ("happy", "happy for you", "happy and sad", "sad", "worried about you")
PROMPT = Prompt(labels=LABELS)
TOLERANCE = {"rtol": 1e-6, "atol": 1e-5}


@pytest.fixture(params=["qwen25", "qwen3"])
def backbone(request: pytest.FixtureRequest) -> OmniBackbone:
    return fresh(request.getfixturevalue(request.param))


def trie_of(backbone: OmniBackbone, labels: tuple[str, ...] = LABELS) -> LabelTrie:
    return LabelTrie.of(labels, backbone.processor.tokenizer)


def literal_mask(length: int, hidden: Tensor) -> Tensor:
    """bool ``[1, 1, L, L]``, entry by entry: the past is visible unless hidden, and every token sees itself."""
    mask = torch.zeros(1, 1, length, length, dtype=torch.bool)
    for query in range(length):
        for key in range(query + 1):
            mask[0, 0, query, key] = key == query or not hidden[key]
    return mask


def answer_log_prob(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the answer's tokens of their log-probability, given ``[L, V]`` logits and ``[L]`` labels."""
    log_probs = logits.float().log_softmax(-1)
    places = (labels != IGNORE).nonzero()[:, 0].tolist()
    return torch.stack([log_probs[place - 1, labels[place]] for place in places]).sum()


def literal_scores(backbone: OmniBackbone, prompt: Sample, answered: list[Sample], hide: tuple[str, ...]) -> Tensor:
    """``[C]`` scores of one clip. Nothing hidden: transformers' own forward, which finds positions and masks itself."""
    scores = []
    for sample in answered:
        assert torch.equal(sample.input_ids[: len(prompt.input_ids)], prompt.input_ids)
        batch = collate_one(sample)
        if hide:
            embeds, extra = backbone.embed(batch.input_ids, batch.media)
            mask = literal_mask(len(sample.input_ids), batch.hidden_keys(*hide)[0])
            logits = backbone.lm_head(backbone.hidden_states(embeds, mask, batch.position_ids, **extra))
        else:
            logits = backbone.model(**batch.model_inputs(), use_cache=False).logits
        scores.append(answer_log_prob(logits[0], sample.labels))
    return torch.stack(scores)


def collate_one(sample: Sample) -> OmniBatch:
    return collate([sample], pad_id=0)


def literal_batch_scores(
    backbone: OmniBackbone, hide: tuple[str, ...] = (), kinds: tuple[tuple[str, ...], ...] = MIXED
) -> Tensor:
    rows = []
    for seed, kind in enumerate(kinds):
        prompt = make_sample(backbone, kind, seed, prompt=PROMPT)
        answered = [make_sample(backbone, kind, seed, prompt=PROMPT, answer=label) for label in LABELS]
        rows.append(literal_scores(backbone, prompt, answered, hide))
    return torch.stack(rows)


# -- the trie ------------------------------------------------------------------------------------------------------


def test_trie_shares_prefixes() -> None:
    trie = LabelTrie.build(("a", "ab", "ac", "d"), [[1, 9], [1, 2, 9], [1, 3, 9], [4, 9]])
    assert trie.tokens == (1, 2, 3, 4)
    assert trie.parents == (-1, 0, 0, -1)
    assert trie.depths() == [0, 1, 1, 0]
    assert trie.paths == (((-1, 1), (0, 9)), ((-1, 1), (0, 2), (1, 9)), ((-1, 1), (0, 3), (2, 9)), ((-1, 4), (3, 9)))
    seen = [[j for j in range(4) if trie.ancestors()[i, j]] for i in range(4)]
    assert seen == [[0], [0, 1], [0, 2], [3]]


def test_labels_with_the_same_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'joy' and 'Joy' have the same tokens \[5, 9\]"):
        LabelTrie.build(("joy", "sad", "Joy"), [[5, 9], [6, 9], [5, 9]])


def test_one_label_is_a_prefix_of_another_here(backbone: OmniBackbone) -> None:
    tokenizer = backbone.processor.tokenizer
    short, long = (tokenizer(label, add_special_tokens=False)["input_ids"] for label in LABELS[:2])
    assert long[: len(short)] == short
    assert len(long) > len(short) + 1


# -- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hide", [(), ("audio",), ("visual",), ("visual", "text"), ("visual", "audio")], ids="+".join)
@torch.no_grad()
def test_equal_to_one_full_pass_per_label(backbone: OmniBackbone, hide: tuple[str, ...]) -> None:
    batch = make_batch(backbone, prompt=PROMPT)
    assert (batch.attention_mask == 0).any(), "the test needs padding"
    scores = label_log_probs(backbone, batch, trie_of(backbone), hide=hide)
    torch.testing.assert_close(scores, literal_batch_scores(backbone, hide), **TOLERANCE)
    if hide:
        shown = label_log_probs(backbone, batch, trie_of(backbone))
        affected = batch.hidden_keys(*hide).any(1)
        assert ((scores - shown).abs().amax(1) > 1e-4).equal(affected)


@torch.no_grad()
def test_audio_inside_the_video_span(backbone: OmniBackbone) -> None:
    prompt = make_sample(backbone, ("video", "audio", "text"), 0, prompt=PROMPT, interleave=True)
    scores = label_log_probs(backbone, collate_one(prompt), trie_of(backbone))
    for column, label in enumerate(LABELS):
        full = make_sample(backbone, ("video", "audio", "text"), 0, prompt=PROMPT, interleave=True, answer=label)
        inputs = collate_one(full).model_inputs() | {"use_audio_in_video": True}
        logits = backbone.model(**inputs, use_cache=False).logits
        torch.testing.assert_close(scores[0, column], answer_log_prob(logits[0], full.labels), **TOLERANCE)


@pytest.mark.parametrize("hide", [(), ("audio",)], ids="+".join)
@torch.no_grad()
def test_batch_mates_do_not_matter(backbone: OmniBackbone, hide: tuple[str, ...]) -> None:
    trie = trie_of(backbone)
    together = label_log_probs(backbone, make_batch(backbone, prompt=PROMPT), trie, hide=hide)
    for seed, kind in enumerate(MIXED):
        alone = collate_one(make_sample(backbone, kind, seed, prompt=PROMPT))
        torch.testing.assert_close(together[seed], label_log_probs(backbone, alone, trie, hide=hide)[0], **TOLERANCE)


@torch.no_grad()
def test_other_candidates_do_not_matter(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone, prompt=PROMPT)
    everything = label_log_probs(backbone, batch, trie_of(backbone))
    few = label_log_probs(backbone, batch, trie_of(backbone, (LABELS[3], LABELS[1])))
    torch.testing.assert_close(few, everything[:, [3, 1]], **TOLERANCE)


@torch.no_grad()
def test_encoded_media_score_the_same_and_no_state_stays(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone, prompt=PROMPT)
    backbone.model.model.rope_deltas = marker = torch.tensor([[-7]])
    raw = label_log_probs(backbone, batch, trie_of(backbone))
    encoded = label_log_probs(backbone, replace(batch, media=backbone.encode(batch.media)), trie_of(backbone))
    assert torch.equal(raw, encoded)
    assert backbone.model.model.rope_deltas is marker


def test_gradients_are_those_of_the_literal_way(backbone: OmniBackbone) -> None:
    backbone.freeze()
    inject_lora(backbone, "q_proj", "v_proj")
    trained = {name: p for name, p in backbone.model.named_parameters() if p.requires_grad}
    kinds = MIXED[:3]
    weights = torch.randn(len(kinds), len(LABELS))

    def gradients(scores: Tensor) -> dict[str, Tensor]:
        return dict(zip(trained, torch.autograd.grad((scores * weights).sum(), list(trained.values())), strict=True))

    fast = gradients(label_log_probs(backbone, make_batch(backbone, kinds, prompt=PROMPT), trie_of(backbone)))
    slow = gradients(literal_batch_scores(backbone, kinds=kinds))
    for name in trained:
        assert fast[name].abs().max() > 0, name
        assert (fast[name] - slow[name]).norm() <= 1e-4 * slow[name].norm(), name


@pytest.mark.parametrize("implementation", ["eager", "flash_attention_2"])
def test_attention_without_boolean_masks_is_refused(backbone: OmniBackbone, implementation: str) -> None:
    batch = make_batch(backbone, MIXED[3:4], prompt=PROMPT)
    backbone.language_model.config._attn_implementation = implementation
    with pytest.raises(ValueError, match=f"'{implementation}'.*attn_implementation='sdpa'"):
        label_log_probs(backbone, batch, trie_of(backbone))


@pytest.mark.parametrize("adapter", ["none", "mose"])
@pytest.mark.parametrize("hide", [(), ("audio",), ("visual", "text")], ids="+".join)
@torch.no_grad()
def test_the_side_of_the_padding_does_not_matter(backbone: OmniBackbone, hide: tuple[str, ...], adapter: str) -> None:
    """Nor do answers behind the prompts."""
    own = adapted(backbone, experts_per_group=2)[0] if adapter == "mose" else backbone
    trie, model, decoder = trie_of(own), own.model, own.language_model
    batch = make_batch(own, prompt=PROMPT)
    answered = make_batch(own, prompt=PROMPT, answer="worried about you")
    assert (batch.attention_mask == 0).any(), "the test needs padding"
    expected, state = label_pass(model, decoder, Prompts.of(own, batch), trie, hide=hide)
    on_the_right, with_answers = Prompts.of(own, right_padded(batch)), Prompts.of(own, right_padded(answered))
    assert not on_the_right.real[:, -1].all() and with_answers.roles.shape[1] > on_the_right.roles.shape[1]
    assert with_answers.without_answers().roles.shape == on_the_right.roles.shape
    for prompts in (on_the_right, with_answers, with_answers.without_answers(), Prompts.of(own, answered)):
        found, other = label_pass(model, decoder, prompts, trie, hide=hide)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(gate_weights(other), gate_weights(state), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_quiet_pass_is_not_observed(qwen25: OmniBackbone) -> None:
    """Observers of the gate and the records of a steering session leave it out; its scores are the same."""
    own, _ = adapted(qwen25)
    prompts, trie, heard = Prompts.of(own, make_batch(own, prompt=PROMPT)), trie_of(own), []
    mose_hooks(own).observers.append(heard.append)
    loud, state = label_pass(own.model, own.language_model, prompts, trie)
    assert len(heard) == 1 and heard[0] is state and not state.quiet
    quiet, state = label_pass(own.model, own.language_model, prompts, trie, quiet=True)
    assert len(heard) == 1 and state.quiet
    assert torch.equal(quiet, loud) and torch.equal(gate_weights(state), gate_weights(heard[0]))
    with steer(own, AttentionReallocation(threshold=0.0, portion=0.9)) as session:
        steered, _ = label_pass(own.model, own.language_model, prompts, trie, quiet=True)
        assert session.last is None and session.stats.rows.sum() == 0
        again, _ = label_pass(own.model, own.language_model, prompts, trie)
        assert session.last is not None and session.stats.rows.sum() > 0
    assert torch.equal(steered, again) and (steered - loud).abs().max() > 1e-4, "it is steered like any other"


# -- what each modality says alone ---------------------------------------------------------------------------------


@torch.no_grad()
def test_unimodal_predictions_are_nan_exactly_where_a_modality_is_absent(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone, prompt=PROMPT)
    prompts = Prompts.of(backbone, batch)
    present = {name: prompts.present(name) for name in ("visual", "audio", "text")}
    readings = predictions_alone(backbone, batch, trie_of(backbone))
    names = {"visual": "video", "audio": "audio", "text": "text"}
    for modality, reading in readings.items():
        expected = torch.tensor([names[modality] in kind for kind in MIXED])
        assert present[modality].equal(expected)
        assert reading.isnan().all(1).equal(~expected) and reading.isnan().any(1).equal(~expected)
        torch.testing.assert_close(reading[expected].sum(1), torch.ones(int(expected.sum())))
    alone = literal_batch_scores(backbone, ("visual", "text")).softmax(-1)
    torch.testing.assert_close(readings["audio"][present["audio"]], alone[present["audio"]], **TOLERANCE)


@torch.no_grad()
def test_a_modality_that_no_clip_carries_is_nan_everywhere(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone, [("audio",), ("audio", "text")], prompt=PROMPT)
    assert predictions_alone(backbone, batch, trie_of(backbone))["visual"].isnan().all()


@torch.no_grad()
def test_what_is_hidden_has_no_influence(backbone: OmniBackbone) -> None:
    batch, trie = make_batch(backbone, prompt=PROMPT), trie_of(backbone)
    words = torch.randint(20, 200, batch.input_ids.shape)
    other = replace(
        batch,
        input_ids=torch.where(batch.transcript, words, batch.input_ids),
        media=MediaBatch(
            [VideoInput(torch.randn_like(v.pixels), v.grid, v.seconds_per_grid) for v in batch.media.videos],
            [AudioInput(torch.randn_like(a.mel)) for a in batch.media.audios],
        ),
    )
    audio_kept = replace(other, media=MediaBatch(other.media.videos, batch.media.audios))
    video_kept = replace(other, media=MediaBatch(batch.media.videos, other.media.audios))
    text_kept = replace(other, input_ids=batch.input_ids)
    before = predictions_alone(backbone, batch, trie)
    for modality, changed in (("visual", video_kept), ("audio", audio_kept), ("text", text_kept)):
        after = predictions_alone(backbone, changed, trie)
        for name, reading in after.items():
            moved = (reading - before[name]).abs().nan_to_num().max() > 1e-6
            assert moved == (name != modality), f"{name} after changing all but {modality}"


# -- scores that are no numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["score", "generate"])
def test_scores_that_are_not_finite_are_no_answer(backbone: OmniBackbone, method: str) -> None:
    batch = make_batch(backbone, [("audio",), ("audio", "text")], prompt=PROMPT)
    answerer = Answerer(backbone, PROMPT, method=method, max_new_tokens=2)
    clean = answerer(batch)
    sounds = [AudioInput(batch.media.audios[0].mel * float("nan")), batch.media.audios[1]]
    broken, whole = answerer(replace(batch, media=MediaBatch([], sounds)))
    assert (broken.label, broken.reason, broken.distribution) == (None, "scores are not finite", None)
    assert broken.unimodal == {}
    assert whole.distribution is not None and whole.label == clean[1].label


def test_scores_behind_the_prompt_are_not_shown_for_answers_with_reasons(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone, [("audio", "text")], prompt=PROMPT)
    for prompt, shown in ((PROMPT, True), (replace(PROMPT, answer_format="rlvr"), False)):
        (found,) = Answerer(backbone, prompt, method="generate", max_new_tokens=2)(batch)
        assert (found.distribution is not None) == shown and found.text is not None
