"""A steered model against the literal one: every layer's full attention matrix, edited row by row."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.labels import LabelTrie
from mosear.backbones.sequences import sequence_state
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch
from mosear.inference.scoring import label_log_probs
from mosear.roles import TokenRole
from mosear.steering import AttentionReallocation, Chase, Policies, Policy, steer
from tests.helpers.eager_steering import RowEdit, add_to_logits, eager_steering, reallocate, unchanged
from tests.helpers.mose_models import adapted, real, right_padded, states
from tests.helpers.omni_samples import MIXED, fresh, inject_lora, make_batch

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
BOTH = torch.tensor(["video" in kind and "audio" in kind for kind in MIXED])
LABELS = ("happy", "sad", "worried")


@pytest.fixture
def plain(backbone: OmniBackbone) -> OmniBackbone:
    return fresh(backbone)


def with_adapter(backbone: OmniBackbone, adapter: str) -> OmniBackbone:
    if adapter == "mose":
        return adapted(backbone, experts_per_group=2)[0]
    own = fresh(backbone)
    if adapter == "lora":
        inject_lora(own, "q_proj", "v_proj", "o_proj")
    return own


@torch.no_grad()
def described_states(backbone: OmniBackbone, batch: OmniBatch) -> Tensor:
    with sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask, transcript=batch.transcript):
        return states(backbone, batch)


def by_hand(backbone: OmniBackbone, batch: OmniBatch, edit: RowEdit) -> Tensor:
    with eager_steering(backbone, batch.roles, batch.prompt_mask, edit):
        return described_states(backbone, batch)


def assert_same(found: Tensor, expected: Tensor, batch: OmniBatch) -> None:
    for own, other in zip(real(found, batch), real(expected, batch), strict=True):
        torch.testing.assert_close(own, other, **TOLERANCE)


# -- the identity --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("adapter", ["none", "mose"])
def test_moving_nothing_equals_sdpa(backbone: OmniBackbone, adapter: str, padding: str) -> None:
    own = with_adapter(backbone, adapter)
    batch = make_batch(own, answer="happy")
    batch = right_padded(batch) if padding == "right" else batch
    before = described_states(own, batch)
    with steer(own, AttentionReallocation(threshold=0.0, portion=0.0)) as session:
        steered = described_states(own, batch)
    assert (session.stats.flagged > 0).all(), "rows were computed exactly and written over"
    assert_same(steered, before, batch)  # three layers add up what one differs by: see test_exact_rows.py for 1e-6


def test_without_statistics_a_policy_that_does_nothing_costs_nothing(plain: OmniBackbone) -> None:
    batch = make_batch(plain)
    before = described_states(plain, batch)
    for policy in (AttentionReallocation(portion=0.0), Chase(conflict_threshold=1.0)):
        with steer(plain, policy, LABELS, record=False) as session:
            assert described_states(plain, batch).equal(before)
        assert session.last is None and session.stats.rows.sum() == 0


# -- reallocation --------------------------------------------------------------------------------------------------

SETTINGS = [
    {"threshold": 0.2, "portion": 0.6},
    {"threshold": 0.2, "portion": 1.0, "distribution": "uniform", "layers": (1,)},
    {"threshold": 0.4, "portion": 0.6, "criterion": "density", "phase": "prefill"},
    {"threshold": 0.4, "portion": 0.6, "phase": "decode"},
]


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [(adapter, settings) for adapter in ("none", "mose") for settings in SETTINGS] + [("lora", SETTINGS[0])],
    ids=lambda part: part if isinstance(part, str) else "-".join(str(value) for value in part.values()),
)
def test_reallocation_equals_the_literal_way(backbone: OmniBackbone, adapter: str, settings: dict) -> None:
    own = with_adapter(backbone, adapter)
    batch = make_batch(own, answer="happy")
    expected = by_hand(own, batch, reallocate(**settings))
    assert not torch.allclose(expected, by_hand(own, batch, unchanged), rtol=1e-2, atol=1e-2)
    with steer(own, AttentionReallocation(**settings)):
        assert_same(described_states(own, batch), expected, batch)


@pytest.mark.parametrize("adapter", ["none", "mose"])
def test_padding_side_and_batch_mates_do_not_matter(backbone: OmniBackbone, adapter: str) -> None:
    own = with_adapter(backbone, adapter)
    policy = AttentionReallocation(threshold=0.2, portion=0.6)
    left = make_batch(own, answer="happy")
    right = right_padded(left)
    with steer(own, policy):
        together = real(described_states(own, left), left)
        moved = real(described_states(own, right), right)
        for index, kind in enumerate(MIXED):
            torch.testing.assert_close(moved[index], together[index], **TOLERANCE)
            one = rows_of(own, kind, index)
            torch.testing.assert_close(real(described_states(own, one), one)[0], together[index], **TOLERANCE)


def rows_of(backbone: OmniBackbone, kind: tuple[str, ...], seed: int) -> OmniBatch:
    from mosear.data.sample import collate
    from tests.helpers.omni_samples import make_sample

    return collate([make_sample(backbone, kind, seed, answer="happy")], 0)


@pytest.mark.parametrize(
    "policy",
    [AttentionReallocation(threshold=0.0, portion=1.0), Chase(conflict_threshold=0, strength=9)],
    ids=["ar", "chase"],
)
def test_clips_without_one_of_the_two_are_untouched(plain: OmniBackbone, policy: Policy) -> None:
    batch = make_batch(plain, answer="happy")
    before = described_states(plain, batch)
    with steer(plain, policy, LABELS):
        after = described_states(plain, batch)
    assert after[~BOTH].equal(before[~BOTH]), "bitwise"
    assert (after[BOTH] != before[BOTH]).flatten(1).any(1).all()
    media = (batch.roles == int(TokenRole.AUDIO)) | (batch.roles == int(TokenRole.VISUAL))
    assert after[media].equal(before[media]), "media tokens are not steered"


def test_audio_inside_the_video_span(plain: OmniBackbone) -> None:
    batch = make_batch(plain, [("video", "audio", "text")] * 2, interleave=True, answer="sad")
    settings = {"threshold": 0.2, "portion": 0.6}
    expected = by_hand(plain, batch, reallocate(**settings))
    with steer(plain, AttentionReallocation(**settings)):
        assert_same(described_states(plain, batch), expected, batch)


def test_roles_come_from_the_input_ids_where_none_are_given(plain: OmniBackbone) -> None:
    batch = make_batch(plain)
    with torch.no_grad(), steer(plain.model, AttentionReallocation(threshold=0.0)):
        logits = plain.model(**batch.model_inputs()).logits[:, -1]
        with sequence_state(plain, roles=batch.roles, prompt_mask=batch.prompt_mask):
            assert plain.model(**batch.model_inputs()).logits[:, -1].equal(logits)
    assert not torch.allclose(plain.model(**batch.model_inputs()).logits[:, -1], logits, atol=1e-3)


# -- logits --------------------------------------------------------------------------------------------------------


def conflicting_readings(batch: OmniBatch) -> dict[str, Tensor]:
    """Over four labels; about every clip, whether it has the modality or not."""
    logits = torch.tensor([[4.0, 0.0, 0.0, 1.0], [0.0, 3.0, 0.0, 0.0]])
    order = torch.arange(len(batch)) % 2
    return {"audio": logits[order].softmax(-1), "visual": logits[1 - order].softmax(-1)}


@pytest.mark.parametrize("adapter", ["none", "mose"])
def test_chase_equals_adding_to_the_logits(backbone: OmniBackbone, adapter: str) -> None:
    own = with_adapter(backbone, adapter)
    batch = make_batch(own, answer="happy")
    heads = [(0, 1), (2, 0), (2, 1)]
    policy = Chase(conflict_threshold=0.1, strength=6.0, suppress=2.0, heads=heads)
    readings = conflicting_readings(batch)
    lacking = {"audio": ["audio" not in kind for kind in MIXED], "visual": ["video" not in kind for kind in MIXED]}
    given = {n: r.masked_fill(torch.tensor(lacking[n])[:, None], float("nan")) for n, r in readings.items()}
    bonus = policy.decide(given).bonus
    assert (bonus != 0).any(1).equal(BOTH)
    expected = by_hand(own, batch, add_to_logits(bonus, heads))
    with steer(own, policy) as session, session.given(readings=readings):
        assert_same(described_states(own, batch), expected, batch)


def test_reallocation_before_chase(plain: OmniBackbone) -> None:
    batch = make_batch(plain, answer="happy")
    chase = Chase(conflict_threshold=0.0, strength=5.0)
    readings = conflicting_readings(batch)
    first = reallocate(0.2, 0.6)
    second = add_to_logits(chase.decide(readings).bonus * BOTH[:, None])

    def in_turn(p: Tensor, *about) -> Tensor:
        return second(first(p, *about), *about)

    expected = by_hand(plain, batch, in_turn)
    policy = Policies([AttentionReallocation(threshold=0.2, portion=0.6), chase])
    with steer(plain, policy) as session, session.given(readings=readings):
        assert_same(described_states(plain, batch), expected, batch)


# -- statistics ----------------------------------------------------------------------------------------------------


def test_statistics_by_hand(plain: OmniBackbone) -> None:
    batch = make_batch(plain, answer="happy")
    settings = {"threshold": 0.3, "portion": 0.5}
    with steer(plain, AttentionReallocation(**settings)) as session:
        described_states(plain, batch)
    stats, last = session.stats, session.last
    assert stats.modalities == ("audio", "visual", "text")
    with eager_steering(plain, batch.roles, batch.prompt_mask, reallocate(**settings)) as seen:
        described_states(plain, batch)
    from tests.helpers.eager_steering import steered_positions

    for layer, after in enumerate(seen):
        rows, means = 0, torch.zeros(2, 3, dtype=torch.float64)
        for sample, roles in enumerate(batch.roles):
            places = steered_positions(roles)
            if not places:
                assert last.after[sample].isnan().all()
                continue
            own = after[sample][:, places].double()
            masks = [roles == int(TokenRole.AUDIO), roles == int(TokenRole.VISUAL), roles == int(TokenRole.TEXT)]
            mass = torch.stack([(own * mask).sum(-1) for mask in masks], dim=-1)
            torch.testing.assert_close(last.after[sample, layer], mass.mean(1).float(), **TOLERANCE)
            means, rows = means + mass.sum(1), rows + len(places)
        assert stats.rows[layer] == rows
        torch.testing.assert_close(stats.after[layer], means / rows, **TOLERANCE)
    torch.testing.assert_close(stats.before.sum(-1), stats.after.sum(-1), rtol=0, atol=1e-6)
    assert (stats.after[..., 0] < stats.before[..., 0]).all() and (stats.after[..., 1] > stats.before[..., 1]).all()
    torch.testing.assert_close(stats.after[..., 2], stats.before[..., 2], rtol=0, atol=1e-6)
    assert ((stats.flagged > 0) & (stats.flagged < 1)).any()
    session.reset_stats()
    assert session.stats.rows.sum() == 0 and session.stats.before.isnan().all()


def test_statistics_cover_answers_but_not_unimodal_predictions(plain: OmniBackbone) -> None:
    batch = make_batch(plain, prompt=Prompt(labels=LABELS))
    trie = LabelTrie.of(LABELS, plain.processor.tokenizer)
    with torch.no_grad(), steer(plain, AttentionReallocation(threshold=0.3)) as session:
        described_states(plain, batch)
        tail = session.stats.rows[0]
        session.reset_stats()
        label_log_probs(plain, batch, trie)
        kept = session.last
        nodes = len(trie.tokens) * sum("video" in kind or "audio" in kind for kind in MIXED)
        assert (session.stats.rows == tail + nodes).all()
        label_log_probs(plain, batch, trie, hide=("text",))
    assert session.last is kept and (session.stats.rows == tail + nodes).all()
    assert kept.before.shape == (len(batch), 3, 2, 3) and kept.flagged.shape == (len(batch), 3, 2)


# -- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["none", "mose"])
def test_low_precision(backbone: OmniBackbone, adapter: str) -> None:
    own = with_adapter(backbone, adapter)
    batch = make_batch(own, answer="happy")
    settings = {"threshold": 0.0, "portion": 0.6}
    own.model.to(torch.bfloat16)
    batch = replace(batch, media=own.encode(batch.media))
    before = described_states(own, batch)
    expected = by_hand(own, batch, reallocate(**settings))
    with steer(own, AttentionReallocation(threshold=0.0, portion=0.0)):
        same = described_states(own, batch)
    with steer(own, AttentionReallocation(**settings)) as session:
        found = described_states(own, batch)
    assert found.dtype == torch.bfloat16
    for values, reference in ((same, before), (found, expected)):
        for one, other in zip(real(values, batch), real(reference, batch), strict=True):
            assert (one.float() - other.float()).norm() < 0.05 * other.float().norm()
    torch.testing.assert_close(session.stats.before.sum(-1), torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close(session.stats.after.sum(-1), torch.ones(3, 2, dtype=torch.float64))


def test_gradients_are_possible_and_not_needed(plain: OmniBackbone) -> None:
    plain.freeze()
    batch = make_batch(plain, answer="happy")
    with steer(plain, AttentionReallocation(threshold=0.2)):
        without = described_states(plain, batch)
        embeds, extra = plain.embed(batch.input_ids, batch.media)
        embeds.requires_grad_(True)
        with sequence_state(plain, roles=batch.roles, prompt_mask=batch.prompt_mask):
            out = plain.hidden_states(embeds, batch.attention_mask, batch.position_ids, **extra)
        out[:, -1].sum().backward()
    assert out.detach().equal(without)
    assert embeds.grad.abs().sum() > 0
