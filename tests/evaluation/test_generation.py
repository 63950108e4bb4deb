"""Greedy decoding against transformers' own ``generate``."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.data.sample import OmniBatch
from mosear.evaluation.generation import generate_ids, generate_text
from tests.helpers.omni_samples import fresh, make_batch

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
    free = generate_ids(backbone, batch, max_new_tokens=STEPS, end_id=never, pad_id=pad_id)
    assert free.shape == (len(batch), STEPS)
    assert torch.equal(free, reference(backbone, batch, never, pad_id))
    # Now some prompts stop early and others go on: the end is a token that one of them produced on the way.
    end_id = int(free[0, 2])
    early = generate_ids(backbone, batch, max_new_tokens=STEPS, end_id=end_id, pad_id=pad_id)
    assert torch.equal(early, reference(backbone, batch, end_id, pad_id))
    assert (early == pad_id).any()


def test_encoded_media_give_the_same_ids(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    options = {"max_new_tokens": STEPS, "end_id": -1, "pad_id": 0}
    encoded = replace(batch, media=backbone.encode(batch.media))
    assert torch.equal(generate_ids(backbone, encoded, **options), generate_ids(backbone, batch, **options))


def test_encoded_media_are_not_for_transformers(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    with pytest.raises(ValueError, match="encoded already"):
        replace(batch, media=backbone.encode(batch.media)).model_inputs()


def test_leaves_no_state_behind_and_ignores_what_is_there(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    options = {"max_new_tokens": STEPS, "end_id": -1, "pad_id": 0}
    before = generate_ids(backbone, batch, **options)
    assert backbone.model.model.rope_deltas is None
    backbone.model.model.rope_deltas = marker = torch.tensor([[-7]])
    assert torch.equal(generate_ids(backbone, batch, **options), before)
    assert backbone.model.model.rope_deltas is marker


def test_stops_when_everybody_has_ended(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone, [("text",)])
    first = int(generate_ids(backbone, batch, max_new_tokens=1, end_id=-1, pad_id=0)[0, 0])
    assert generate_ids(backbone, batch, max_new_tokens=STEPS, end_id=first, pad_id=0).tolist() == [[first]]


def test_text_has_no_special_tokens(backbone: OmniBackbone) -> None:
    tokenizer = backbone.processor.tokenizer
    texts = generate_text(backbone, make_batch(backbone), max_new_tokens=STEPS)
    ids = generate_ids(
        backbone,
        make_batch(backbone),
        max_new_tokens=STEPS,
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    assert texts == [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    assert all(token not in text for text in texts for token in tokenizer.all_special_tokens)
