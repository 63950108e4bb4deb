"""Greedy decoding against transformers' own ``generate``."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.data.sample import OmniBatch, collate
from mosear.inference.generation import generate, generate_text
from mosear.inference.prompts import Prompts
from tests.helpers.omni_samples import MIXED, fresh, make_batch, make_sample

STEPS = 6


@pytest.fixture(params=["qwen25", "qwen3"])
def backbone(request: pytest.FixtureRequest) -> OmniBackbone:
    return fresh(request.getfixturevalue(request.param))


def reference(backbone: OmniBackbone, batch: OmniBatch, end_id: int, pad_id: int) -> Tensor:
    sequences = backbone.model.generate(
        **batch.model_inputs(), do_sample=False, max_new_tokens=STEPS, eos_token_id=end_id, pad_token_id=pad_id
    )
    return sequences[:, batch.input_ids.shape[1] :]


def test_equal_to_transformers_generate(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    pad_id = backbone.processor.tokenizer.pad_token_id
    assert (batch.attention_mask == 0).any(), "the test needs padding"
    never = len(backbone.processor.tokenizer) - 1
    free = generate(backbone, batch, max_new_tokens=STEPS, end_id=never, pad_id=pad_id).ids
    assert free.shape == (len(batch), STEPS)
    assert torch.equal(free, reference(backbone, batch, never, pad_id))
    # Now some prompts stop early and others go on: the end is a token that one of them produced on the way.
    end_id = int(free[0, 2])
    early = generate(backbone, batch, max_new_tokens=STEPS, end_id=end_id, pad_id=pad_id).ids
    assert torch.equal(early, reference(backbone, batch, end_id, pad_id))
    assert (early == pad_id).any()


def test_encoded_media_give_the_same_ids(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    options = {"max_new_tokens": STEPS, "end_id": -1, "pad_id": 0}
    encoded = replace(batch, media=backbone.encode(batch.media))
    assert torch.equal(generate(backbone, encoded, **options).ids, generate(backbone, batch, **options).ids)


def test_encoded_media_are_not_for_transformers(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    with pytest.raises(ValueError, match="encoded already"):
        replace(batch, media=backbone.encode(batch.media)).model_inputs()


def test_leaves_no_state_behind_and_ignores_what_is_there(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    options = {"max_new_tokens": STEPS, "end_id": -1, "pad_id": 0}
    before = generate(backbone, batch, **options).ids
    assert backbone.model.model.rope_deltas is None
    backbone.model.model.rope_deltas = marker = torch.tensor([[-7]])
    assert torch.equal(generate(backbone, batch, **options).ids, before)
    assert backbone.model.model.rope_deltas is marker


def test_stops_when_all_answers_have_ended(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone, [("text",)])
    first = int(generate(backbone, batch, max_new_tokens=1, end_id=-1, pad_id=0).ids[0, 0])
    assert generate(backbone, batch, max_new_tokens=STEPS, end_id=first, pad_id=0).ids.tolist() == [[first]]


def test_text_has_no_special_tokens(backbone: OmniBackbone) -> None:
    tokenizer = backbone.processor.tokenizer
    texts = generate_text(backbone, make_batch(backbone), max_new_tokens=STEPS)
    ids = generate(
        backbone,
        make_batch(backbone),
        max_new_tokens=STEPS,
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    ).ids
    assert texts == [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    assert all(token not in text for text in texts for token in tokenizer.all_special_tokens)


@torch.no_grad()
def teacher_forced(backbone: OmniBackbone, batch: OmniBatch, answer: list[int]) -> list[float]:
    """Log-probability of each answer token of one clip, from one pass over prompt and answer, without a cache."""
    prompt = Prompts.of(backbone, batch)
    length, count = prompt.roles.shape[1], len(answer)
    words = backbone.model.get_input_embeddings()(torch.tensor([answer]))
    following = batch.position_ids.max() + torch.arange(1, count + 1)
    hidden = backbone.hidden_states(
        torch.cat([prompt.embeds, words], dim=1),
        torch.ones(1, length + count, dtype=torch.long),
        torch.cat([batch.position_ids, following.expand(3, 1, -1)], dim=2),
        **prompt.extra_for(count),
    )
    logits = backbone.lm_head(hidden)[0].float()
    return [float(logits[length - 1 + i].log_softmax(-1)[token]) for i, token in enumerate(answer)]


def test_log_probs_are_those_of_one_teacher_forced_pass(backbone: OmniBackbone) -> None:
    batch, pad_id = make_batch(backbone), backbone.processor.tokenizer.pad_token_id
    assert (batch.attention_mask == 0).any(), "the test needs padding"
    free = generate(backbone, batch, max_new_tokens=STEPS, end_id=-1, pad_id=pad_id)
    end_id = int(free.ids[0, 2])  # some answers stop early, others go on
    found = generate(backbone, batch, max_new_tokens=STEPS, end_id=end_id, pad_id=pad_id)
    assert found.log_probs.dtype == torch.float32 and found.log_probs.shape == found.ids.shape
    lengths = []
    for row, kind in enumerate(MIXED):
        ids = found.ids[row].tolist()
        answer = ids[: ids.index(end_id) + 1] if end_id in ids else ids
        lengths.append(len(answer))
        expected = teacher_forced(backbone, collate([make_sample(backbone, kind, row)], pad_id), answer)
        torch.testing.assert_close(found.log_probs[row, : len(answer)], torch.tensor(expected), rtol=1e-4, atol=1e-4)
        assert (found.log_probs[row, : len(answer)] < 0).all(), "the end token has a log-probability, too"
        assert (found.log_probs[row, len(answer) :] == 0).all() and set(ids[len(answer) :]) <= {pad_id}
    assert min(lengths) < max(lengths), "the test needs answers that stop early"
