"""Hiding a modality: the masks cell by cell, and that hidden tokens have no influence at all."""

import pytest
import torch

from mosear.backbones import OmniBackbone, load_backbone
from mosear.backbones.masks import causal_mask, tree_mask
from mosear.data.clip import Clip
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, SampleBuilder, collate
from tests.tiny_checkpoints import random_media

PADDED = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
HIDDEN = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0]]).bool()


@pytest.mark.parametrize("hidden", [None, HIDDEN], ids=["all", "hidden"])
def test_causal_mask_cell_by_cell(hidden: torch.Tensor | None) -> None:
    mask = causal_mask(PADDED, hidden)
    assert mask.shape == (3, 1, 5, 5) and mask.dtype == torch.bool
    for b in range(3):
        for i in range(5):
            for j in range(5):
                visible = bool(PADDED[b, j]) and not (hidden is not None and hidden[b, j])
                assert mask[b, 0, i, j] == ((j <= i and visible) or i == j)


@pytest.mark.parametrize("hidden", [None, HIDDEN], ids=["all", "hidden"])
def test_tree_mask_cell_by_cell(hidden: torch.Tensor | None) -> None:
    ancestors = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]]).bool()
    mask = tree_mask(PADDED, ancestors, hidden)
    assert mask.shape == (3, 1, 3, 8) and mask.dtype == torch.bool
    for b in range(3):
        for node in range(3):
            for j in range(5):
                assert mask[b, 0, node, j] == (bool(PADDED[b, j]) and not (hidden is not None and hidden[b, j]))
            assert mask[b, 0, node, 5:].tolist() == ancestors[node].tolist()


def make_batch(backbone: OmniBackbone) -> OmniBatch:
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt())
    processor = MediaProcessor(backbone.processor)
    clips = [Clip(id="a", video="v", audio="a", text="well, the shop moved."), Clip(id="b", video="v", audio="a")]
    return collate([builder.build(clip, processor(random_media(i))) for i, clip in enumerate(clips)], builder.pad_id)


def run(
    backbone: OmniBackbone, batch: OmniBatch, embeds: torch.Tensor, mask: torch.Tensor, extra: dict
) -> torch.Tensor:
    with torch.no_grad():
        return backbone.hidden_states(embeds, mask, batch.position_ids, **extra)


@pytest.mark.parametrize("modality", ["visual", "audio", "text"])
def test_hidden_tokens_have_no_influence(qwen25: OmniBackbone, modality: str) -> None:
    batch = make_batch(qwen25)
    embeds, extra = qwen25.embed(batch.input_ids, batch.media)
    hidden = batch.hidden_keys(modality)
    mask = causal_mask(batch.attention_mask, hidden)
    states = run(qwen25, batch, embeds, mask, extra)
    other = torch.where(hidden[..., None], torch.randn_like(embeds), embeds)
    seen = batch.attention_mask.bool() & ~hidden
    assert hidden[0].any()
    assert torch.equal(run(qwen25, batch, other, mask, extra)[seen], states[seen])
    unmasked = run(qwen25, batch, other, causal_mask(batch.attention_mask), extra)
    assert (unmasked - states)[seen].abs().max() > 1e-2, "without the mask the same change must matter"


@pytest.mark.parametrize("modality", ["visual", "audio", "text"])
def test_hidden_tokens_have_no_influence_with_experts(qwen3: OmniBackbone, modality: str) -> None:
    """As above up to rounding: hidden tokens are routed to experts too and share matrix products with the others."""
    batch = make_batch(qwen3)
    embeds, extra = qwen3.embed(batch.input_ids, batch.media)
    hidden = batch.hidden_keys(modality)
    mask = causal_mask(batch.attention_mask, hidden)
    other = torch.where(hidden[..., None], torch.randn_like(embeds), embeds)
    seen = batch.attention_mask.bool() & ~hidden
    states, changed = run(qwen3, batch, embeds, mask, extra), run(qwen3, batch, other, mask, extra)
    torch.testing.assert_close(changed[seen], states[seen], rtol=0, atol=1e-5)


def test_without_hidden_keys_it_is_the_models_own_mask(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    ours = run(backbone, batch, embeds, causal_mask(batch.attention_mask), extra)
    own = run(backbone, batch, embeds, batch.attention_mask, extra)
    real = batch.attention_mask.bool()
    torch.testing.assert_close(ours[real], own[real], rtol=1e-5, atol=1e-5)


def test_equals_eager_softmax(qwen25: OmniBackbone, qwen25_dir) -> None:
    """transformers' eager attention adds the mask to the logits: -inf is the literal meaning of hidden."""
    eager = load_backbone(str(qwen25_dir), dtype="fp32", attn_implementation="eager")
    batch = make_batch(qwen25)
    embeds, extra = qwen25.embed(batch.input_ids, batch.media)
    mask = causal_mask(batch.attention_mask, batch.hidden_keys("visual"))
    additive = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    states = run(qwen25, batch, embeds, mask, extra)
    torch.testing.assert_close(run(eager, batch, embeds, additive, extra), states, rtol=1e-4, atol=1e-4)


def test_a_row_of_padding_is_finite(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    attention = batch.attention_mask.clone()
    attention[1] = 0
    assert run(backbone, batch, embeds, causal_mask(attention), extra).isfinite().all()


def test_hiding_everything_but_text_is_finite(backbone: OmniBackbone) -> None:
    batch = make_batch(backbone)
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    mask = causal_mask(batch.attention_mask, batch.hidden_keys("visual", "audio", "text"))
    assert run(backbone, batch, embeds, mask, extra).isfinite().all()


def test_unknown_modality_is_named(qwen25: OmniBackbone) -> None:
    with pytest.raises(ValueError, match="Unknown modality 'video'"):
        make_batch(qwen25).hidden_keys("video")
