"""What CHASE decides on: unimodal predictions of masked passes, partial outputs of heads, or what is given."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.labels import LabelTrie
from mosear.backbones.sequences import open_states, sequence_state
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch
from mosear.experts import gate_weights
from mosear.experts.hooks import mose_hooks
from mosear.inference.scoring import label_log_probs
from mosear.inference.unimodal import predictions_alone
from mosear.roles import TokenRole
from mosear.steering import AttentionReallocation, Chase, SteeringSession, steer
from tests.helpers.eager_steering import eager_steering, unchanged
from tests.helpers.mose_models import adapted, right_padded, states
from tests.helpers.omni_samples import MIXED, fresh, inject_lora, make_batch

LABELS = ("happy", "sad", "worried about you")
PROMPT = Prompt(labels=LABELS)
BOTH = torch.tensor(["video" in kind and "audio" in kind for kind in MIXED])
AUDIO, VISUAL = int(TokenRole.AUDIO), int(TokenRole.VISUAL)
MASKED = Chase(conflict_threshold=0, reliability={"transcript_weight": 1.0})
HEADS = Chase(detector="heads", conflict_threshold=0)


def with_adapter(backbone: OmniBackbone, adapter: str) -> OmniBackbone:
    if adapter == "mose":
        return adapted(backbone, experts_per_group=2)[0]
    own = fresh(backbone)
    if adapter == "lora":
        inject_lora(own, "o_proj", "v_proj")
    return own


@torch.no_grad()
def read_prompts(backbone: OmniBackbone, batch: OmniBatch, cache: DynamicCache | None = None) -> Tensor:
    with sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask, transcript=batch.transcript):
        return states(backbone, batch, cache)


# -- masked passes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["prompts", "with answers", "right padding"])
@pytest.mark.parametrize("adapter", ["none", "mose"])
@torch.no_grad()
def test_unimodal_predictions_equal_those_of_the_evaluation(backbone: OmniBackbone, adapter: str, shape: str) -> None:
    own = with_adapter(backbone, adapter)
    trie = LabelTrie.of(LABELS, own.processor.tokenizer)
    expected = predictions_alone(own, make_batch(own, prompt=PROMPT), trie)
    batch = make_batch(own, prompt=PROMPT, answer=None if shape == "prompts" else "sad")
    with steer(own, MASKED, LABELS) as session:
        read_prompts(own, right_padded(batch) if shape == "right padding" else batch)
    assert set(session.last.readings) == {"audio", "visual", "text"}
    for name, reading in session.last.readings.items():
        torch.testing.assert_close(reading, expected[name], rtol=1e-5, atol=1e-5, equal_nan=True)
    decision = MASKED.decide(expected)
    torch.testing.assert_close(session.last.decision.bonus, decision.bonus, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(session.stats.conflict, decision.conflict, rtol=1e-3, atol=1e-5, equal_nan=True)
    assert session.stats.conflict.isnan().equal(~BOTH)


@torch.no_grad()
def test_the_transcript_may_stay_visible(backbone: OmniBackbone) -> None:
    own = fresh(backbone)
    batch, trie = make_batch(own, prompt=PROMPT), LabelTrie.of(LABELS, own.processor.tokenizer)
    with steer(own, Chase(conflict_threshold=0, readings="with_transcript"), LABELS) as session:
        read_prompts(own, batch)
    for name, other in (("audio", "visual"), ("visual", "audio")):
        expected = label_log_probs(own, batch, trie, hide=(other,)).softmax(-1)
        torch.testing.assert_close(session.last.readings[name][BOTH], expected[BOTH], rtol=1e-5, atol=1e-5)
    alone = predictions_alone(own, batch, trie)["audio"]
    assert (session.last.readings["audio"] - alone)[0].abs().max() > 1e-4


@torch.no_grad()
def test_unimodal_predictions_in_transformers_own_forward(backbone: OmniBackbone) -> None:
    """Positions and DeepStack features are those that the inner model computes."""
    own = fresh(backbone)
    batch, trie = make_batch(own, prompt=PROMPT), LabelTrie.of(LABELS, own.processor.tokenizer)
    with steer(own, MASKED, LABELS) as session:
        with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask, transcript=batch.transcript):
            own.model(**batch.model_inputs())
        assert session.last.readings is not None
        for name, reading in predictions_alone(own, batch, trie).items():
            # The audio tower encodes a batch a little differently from single clips.
            torch.testing.assert_close(session.last.readings[name], reading, rtol=0, atol=5e-3, equal_nan=True)
        own.model(**batch.model_inputs())
        assert set(session.last.readings) == {"audio", "visual"}, "where the transcript is was not said"


@torch.no_grad()
def test_no_passes_where_no_clip_has_both(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    batch = make_batch(own, MIXED[1:4], prompt=PROMPT)
    calls = []
    own.language_model.register_forward_hook(lambda *_: calls.append(1))
    with steer(own, MASKED, LABELS) as session:
        read_prompts(own, batch)
        assert len(calls) == 1 and session.last.decision.conflict.isnan().all()
        read_prompts(own, make_batch(own, prompt=PROMPT))
        assert len(calls) == 1 + 4


@torch.no_grad()
def test_extra_passes_are_not_observed_or_counted(qwen25: OmniBackbone) -> None:
    """Observers of the gate do not hear of them, statistics leave them out, and an error in one leaves nothing open."""
    own = with_adapter(qwen25, "mose")
    batch, heard = make_batch(own, prompt=PROMPT), []
    mose_hooks(own).observers.append(lambda state: heard.append(gate_weights(state)))
    read_prompts(own, batch)
    with steer(own, MASKED, LABELS) as session:
        read_prompts(own, batch)
    assert len(heard) == 2 and heard[0][:, ~BOTH].equal(heard[1][:, ~BOTH])
    only_ar = AttentionReallocation(threshold=0.9)
    with steer(own, only_ar) as other:
        read_prompts(own, batch)
    assert session.stats.rows.equal(other.stats.rows)

    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    handle = own.language_model.layers[0].register_forward_pre_hook(fail)
    with steer(own, MASKED, LABELS) as session:
        with pytest.raises(RuntimeError, match="on purpose"):
            read_prompts(own, batch)
        handle.remove()
        assert not session.detector.busy and not open_states(own.model)
        read_prompts(own, batch)
    assert session.stats.rows.equal(other.stats.rows)


# -- partial outputs of heads --------------------------------------------------------------------------------------


def heads_by_hand(own: OmniBackbone, batch: OmniBatch, evidence: list[tuple[int, int]]) -> dict[str, Tensor]:
    """From full attention matrices and the values that the projections make."""
    values: dict[int, Tensor] = {}
    handles = [
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, out, index=index: values.update({index: out}))
        for index, layer in enumerate(own.language_model.layers)
    ]
    with eager_steering(own, batch.roles, batch.prompt_mask, unchanged) as seen:
        read_prompts(own, batch)
    for handle in handles:
        handle.remove()
    config = own.language_model.config
    size = values[0].shape[-1] // config.num_key_value_heads
    masks = {"audio": batch.roles == AUDIO, "visual": batch.roles == VISUAL, "text": batch.transcript}
    first = [own.processor.tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in LABELS]
    readings = {}
    for name, mask in masks.items():
        total = torch.zeros(len(batch), config.hidden_size)
        for layer, head in evidence:
            group = head // (config.num_attention_heads // config.num_key_value_heads)
            value = values[layer][..., group * size : (group + 1) * size]
            output = torch.stack([(p[head, -1] * m) @ v for p, m, v in zip(seen[layer], mask, value, strict=True)])
            projection = own.language_model.layers[layer].self_attn.o_proj
            weight = getattr(projection, "base_layer", projection).weight
            total += output @ weight[:, head * size : (head + 1) * size].T
        logits = own.lm_head(own.language_model.norm(total))[:, first]
        readings[name] = logits.softmax(-1).masked_fill(~mask.any(1, keepdim=True), float("nan"))
    return readings


@pytest.mark.parametrize("adapter", ["none", "mose", "lora"])
@torch.no_grad()
def test_predictions_of_heads_by_hand(backbone: OmniBackbone, adapter: str) -> None:
    own = with_adapter(backbone, adapter)
    batch = make_batch(own, prompt=PROMPT)
    evidence = [(0, 0), (0, 1), (1, 1)]
    with steer(own, replace(HEADS, evidence_heads=evidence), LABELS) as session:
        read_prompts(own, batch)
    for name, reading in heads_by_hand(own, batch, evidence).items():
        torch.testing.assert_close(session.last.readings[name], reading, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert session.stats.conflict.isnan().equal(~BOTH)


@torch.no_grad()
def test_heads_act_behind_their_evidence_in_one_pass(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    batch, calls = make_batch(own, prompt=PROMPT), []
    own.language_model.register_forward_hook(lambda *_: calls.append(1))
    with steer(own, replace(HEADS, strength=20.0, evidence_heads=[(1, 0)]), LABELS) as session:
        read_prompts(own, batch)
    assert len(calls) == 1
    flagged = session.stats.flagged.sum(-1)
    assert flagged[0] == 0 and flagged[1] == 0 and flagged[2] > 0


def test_labels_that_begin_alike(qwen25: OmniBackbone) -> None:
    with pytest.warns(UserWarning, match="begin with the same token"):
        SteeringSession(fresh(qwen25), HEADS, ("happy", "happy for you"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SteeringSession(fresh(qwen25), HEADS, LABELS)


# -- given ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_given_predictions_cost_no_pass(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    batch, trie, calls = make_batch(own, prompt=PROMPT), LabelTrie.of(LABELS, own.processor.tokenizer), []
    with steer(own, MASKED, LABELS):
        expected = label_log_probs(own, batch, trie)
    own.language_model.register_forward_hook(lambda *_: calls.append(1))
    with steer(own, MASKED, LABELS) as session:
        readings = predictions_alone(own, batch, trie)
        assert len(calls) == 3
        with session.given(readings=readings):
            scores = label_log_probs(own, batch, trie)
            hidden = label_log_probs(own, batch, trie, hide=("audio",))
        assert len(calls) == 5
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(hidden, label_log_probs(own, batch, trie, hide=("audio",)), rtol=1e-5, atol=1e-5)
    with steer(own, replace(MASKED, detector="heads")) as session, session.given(readings=readings):
        read_prompts(own, batch)  # no labels needed
        assert session.last.decision.conflict.isnan().equal(~BOTH)


@torch.no_grad()
def test_directions_of_an_oracle(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    batch = make_batch(own, prompt=PROMPT)
    policy = Chase(target="oracle", conflict_threshold=0)
    with steer(own, policy, LABELS) as session:
        with session.given(directions=["audio", "visual", None, None, "visual"]):
            read_prompts(own, batch)
        assert session.last.decision.target.tolist() == [AUDIO, -1, -1, -1, VISUAL]
        with session.given(directions=torch.tensor([VISUAL, -1, -1, -1, -1])):
            read_prompts(own, batch)
        assert session.last.decision.target.tolist() == [VISUAL, -1, -1, -1, -1]
        with pytest.raises(ValueError, match=r"session.given\(directions"):
            read_prompts(own, batch)


@torch.no_grad()
def test_what_is_given_must_fit(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    batch = make_batch(own, prompt=PROMPT)
    good = {name: torch.full((5, 3), 1 / 3) for name in ("audio", "visual", "text")}
    with steer(own, MASKED, LABELS) as session:
        for readings, words in (
            ({"audio": good["audio"]}, "readings lack visual, text"),
            (good | {"audio": torch.ones(5, 4)}, "must be distributions"),
            ({name: torch.ones(5, 2) for name in good}, r"\[B, 3\]"),
        ):
            with pytest.raises(ValueError, match=words), session.given(readings=readings):
                pass
        with pytest.raises(ValueError, match="not left"), session.given(directions=["left"]):
            pass
        few = {name: reading[:3] for name, reading in good.items()}
        with session.given(readings=few), pytest.raises(ValueError, match="about 3 clips, but a pass reads 5"):
            read_prompts(own, batch)
    with steer(own, AttentionReallocation()) as session, session.given(readings=good):
        read_prompts(own, batch)  # without CHASE they are not used
