"""Steering with a KV cache: decoding, label scoring, generation, beams, and other passes in between."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.labels import LabelTrie
from mosear.backbones.masks import causal_mask
from mosear.backbones.sequences import sequence_state
from mosear.data.prompt import Prompt
from mosear.data.sample import IGNORE, OmniBatch, collate
from mosear.inference import generation
from mosear.inference.scoring import label_log_probs
from mosear.inference.unimodal import predictions_alone
from mosear.steering import AttentionReallocation, Chase, Policies, Policy, steer
from tests.helpers.mose_models import adapted, states
from tests.helpers.omni_samples import MIXED, fresh, make_batch, make_sample

LABELS = ("happy", "happy for you", "sad")
PROMPT = Prompt(labels=LABELS)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
POLICIES: dict[str, Policy] = {
    "ar": AttentionReallocation(threshold=0.2, portion=0.6),
    "ar decode": AttentionReallocation(threshold=0.2, portion=0.6, phase="decode", distribution="uniform"),
    "masked": Chase(conflict_threshold=0, strength=300, reliability={"transcript_weight": 1.0}),
    "heads": Chase(detector="heads", conflict_threshold=0, strength=300, suppress=10),
    "both": Policies([AttentionReallocation(threshold=0.2), Chase(conflict_threshold=0, strength=300)]),
}


SLOW = pytest.mark.slow
MOST = ["ar", "masked", "heads"]


@pytest.fixture
def own(request: pytest.FixtureRequest) -> OmniBackbone:
    """A copy of a backbone, from ``family-adapter``."""
    family, _, adapter = request.param.partition("-")
    return with_adapter(request.getfixturevalue(family), adapter)


def with_adapter(backbone: OmniBackbone, adapter: str) -> OmniBackbone:
    return adapted(backbone, experts_per_group=2)[0] if adapter == "mose" else fresh(backbone)


def prefill(backbone: OmniBackbone, prompt: OmniBatch, cache: DynamicCache | None = None) -> Tensor:
    with sequence_state(backbone, roles=prompt.roles, prompt_mask=prompt.prompt_mask, transcript=prompt.transcript):
        return states(backbone, prompt, cache)


def step(backbone: OmniBackbone, batch: OmniBatch, column: int, cache: DynamicCache) -> Tensor:
    """One token after the cached ones."""
    return backbone.hidden_states(
        backbone.model.get_input_embeddings()(batch.input_ids[:, column : column + 1]),
        batch.attention_mask[:, : column + 1],
        batch.position_ids[..., column : column + 1],
        cache,
    )[:, 0]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    "own",
    ["qwen25-mose", "qwen3-none", pytest.param("qwen25-none", marks=SLOW), pytest.param("qwen3-mose", marks=SLOW)],
    indirect=True,
)
@torch.no_grad()
def test_step_by_step_equals_the_full_forward(own: OmniBackbone, name: str) -> None:
    prompt, full = make_batch(own), make_batch(own, answer="happy")
    start = prompt.input_ids.shape[1]
    unsteered = prefill(own, full)
    with steer(own, POLICIES[name], LABELS):
        expected = prefill(own, full)
        cache = DynamicCache()
        torch.testing.assert_close(prefill(own, prompt, cache)[:, -1], expected[:, start - 1], **TOLERANCE)
        for column in range(start, full.input_ids.shape[1]):
            torch.testing.assert_close(step(own, full, column, cache), expected[:, column], **TOLERANCE)
    assert (expected - unsteered)[0, start:].abs().max() > 1e-2


@pytest.mark.parametrize(
    ("own", "name"),
    [("qwen25-mose", "masked"), ("qwen3-mose", "masked"), ("qwen25-none", "heads"), ("qwen3-none", "ar")],
    indirect=["own"],
)
@torch.no_grad()
def test_other_passes_leave_no_trace(own: OmniBackbone, name: str) -> None:
    """Bitwise: detector passes and foreign prompts between a prefill and each of its steps."""
    prompt, full = make_batch(own, MIXED[:2]), make_batch(own, MIXED[:2], answer="happy")
    trie = LabelTrie.of(LABELS, own.processor.tokenizer)
    foreign = make_batch(own, MIXED[-1:])
    columns = range(prompt.input_ids.shape[1], full.input_ids.shape[1])

    def decode(disturb: bool) -> list[Tensor]:
        cache, found = DynamicCache(), []
        with steer(own, POLICIES[name], LABELS):
            found.append(prefill(own, prompt, cache))
            for column in columns:
                if disturb:
                    label_log_probs(own, foreign, trie)
                    label_log_probs(own, prompt, trie, hide=("audio",))
                    own.model.generate(**foreign.model_inputs(), max_new_tokens=2)
                found.append(step(own, full, column, cache))
        return found

    random = torch.get_rng_state()
    calm = decode(disturb=False)
    assert torch.get_rng_state().equal(random)
    for one, other in zip(calm, decode(disturb=True), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("name", ["masked"])
@torch.no_grad()
def test_a_cache_takes_its_roles_along(backbone: OmniBackbone, name: str) -> None:
    own = with_adapter(backbone, "none")
    prompt, full = make_batch(own), make_batch(own, answer="happy")
    column, rows = prompt.input_ids.shape[1], torch.tensor([4, 0, 0])
    with steer(own, POLICIES[name], LABELS):
        cache = DynamicCache()
        prefill(own, prompt, cache)
        expected = step(own, full, column, deepcopy(cache))
        for change in ("batch_select_indices", "reorder_cache"):
            copied = deepcopy(cache)
            getattr(copied, change)(rows)
            torch.testing.assert_close(step(own, picked(full, rows), column, copied), expected[rows], **TOLERANCE)
        copied = deepcopy(cache)
        copied.batch_repeat_interleave(2)
        twice = torch.arange(len(full)).repeat_interleave(2)
        torch.testing.assert_close(step(own, picked(full, twice), column, copied), expected[twice], **TOLERANCE)
        copied = deepcopy(cache)
        step(own, full, column, copied)
        copied.crop(-1)
        torch.testing.assert_close(step(own, full, column, copied), expected, **TOLERANCE)
        cache.crop(-2)
        with pytest.raises(ValueError, match="cropped into its prompt"):
            step(own, full, column - 2, cache)


def picked(batch: OmniBatch, rows: Tensor) -> OmniBatch:
    return replace(
        batch,
        input_ids=batch.input_ids[rows],
        attention_mask=batch.attention_mask[rows],
        position_ids=batch.position_ids[:, rows],
    )


# -- label scoring -------------------------------------------------------------------------------------------------


KINDS = (MIXED[0], MIXED[1], MIXED[4])
BOTH = torch.tensor([True, False, True])


@pytest.mark.parametrize("name", MOST)
@pytest.mark.parametrize(
    ("own", "hide"),
    [
        ("qwen25-none", ("text",)),
        ("qwen3-mose", ()),
        pytest.param("qwen25-mose", (), marks=SLOW),
        pytest.param("qwen3-none", ("text",), marks=SLOW),
    ],
    indirect=["own"],
)
@torch.no_grad()
def test_label_scores_equal_one_full_pass_per_label(own: OmniBackbone, hide: tuple[str, ...], name: str) -> None:
    batch, trie = make_batch(own, KINDS, prompt=PROMPT), LabelTrie.of(LABELS, own.processor.tokenizer)
    unsteered = label_log_probs(own, batch, trie, hide=hide)
    with steer(own, POLICIES[name], LABELS):
        scores = label_log_probs(own, batch, trie, hide=hide)
        for column, label in enumerate(LABELS):
            full = make_batch(own, KINDS, prompt=PROMPT, answer=label)
            hidden = full.hidden_keys(*hide)
            embeds, extra = own.embed(full.input_ids, full.media)
            mask = causal_mask(full.attention_mask, hidden)
            with sequence_state(
                own, roles=full.roles, prompt_mask=full.prompt_mask, hidden=hidden, transcript=full.transcript
            ):
                out = own.hidden_states(embeds, mask, full.position_ids, **extra)
            log_probs = own.lm_head(out[:, :-1]).log_softmax(-1)
            targets = full.labels[:, 1:]
            own_tokens = log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
            torch.testing.assert_close(scores[:, column], (own_tokens * (targets != IGNORE)).sum(1), **TOLERANCE)
    changed = (scores - unsteered).abs().amax(1)
    assert (changed[BOTH] > 1e-3).all() and (changed[~BOTH] < 1e-5).all()


@torch.no_grad()
def test_unimodal_predictions_are_not_changed(backbone: OmniBackbone) -> None:
    own = with_adapter(backbone, "none")
    batch, trie = make_batch(own, prompt=PROMPT), LabelTrie.of(LABELS, own.processor.tokenizer)
    expected = predictions_alone(own, batch, trie)
    for policy in POLICIES.values():
        with steer(own, policy, LABELS):
            found = predictions_alone(own, batch, trie)
        for name, reading in expected.items():
            torch.testing.assert_close(found[name], reading, rtol=1e-5, atol=1e-6, equal_nan=True)


# -- generation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "beams", "stated"),
    [
        ("qwen25-none", 3, False),
        ("qwen25-mose", 1, True),
        ("qwen3-mose", 3, True),
        pytest.param("qwen25-mose", 3, True, marks=SLOW),
        pytest.param("qwen25-mose", 3, False, marks=SLOW),
        pytest.param("qwen3-none", 1, True, marks=SLOW),
    ],
    indirect=["own"],
)
@torch.no_grad()
def test_generate_of_transformers(own: OmniBackbone, beams: int, stated: bool) -> None:
    """A batch gives what its clips give alone; greedy equals our own decoding."""
    kinds = (MIXED[0], MIXED[2])
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": beams}
    batch = make_batch(own, kinds)

    def generate(data: OmniBatch) -> Tensor:
        inputs = data.model_inputs()
        if not stated:
            return own.model.generate(**inputs, **options)[:, data.input_ids.shape[1] :]
        with sequence_state(own, roles=data.roles, prompt_mask=data.prompt_mask, transcript=data.transcript):
            return own.model.generate(**inputs, **options)[:, data.input_ids.shape[1] :]

    unsteered = generate(batch)
    for name in ("ar", "masked"):
        with steer(own, POLICIES[name], LABELS) as session:
            together = generate(batch)
            assert session.last.before.shape[0] == beams * len(kinds)
            for seed, kind in enumerate(kinds):
                alone = generate(collate([make_sample(own, kind, seed)], 0))[0]
                assert together[seed, : len(alone)].equal(alone[: together.shape[1]])
            if beams == 1 and stated:
                ids = {"end_id": own.processor.tokenizer.eos_token_id, "pad_id": own.processor.tokenizer.pad_token_id}
                assert generation.generate(own, batch, max_new_tokens=4, **ids).ids.equal(together)
        assert not together.equal(unsteered) or name != "ar"
