"""What a sample's output may not depend on."""

from dataclasses import replace

import pytest
import torch

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.masks import causal_mask
from mosear.backbones.sequences import sequence_state
from mosear.data.sample import OmniBatch, collate
from mosear.experts import gate_weights
from tests.helpers.mose_models import adapted, real, right_padded, states
from tests.helpers.omni_samples import MIXED, make_batch, make_sample

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
BF16 = {"rtol": 0.05, "atol": 0.15}


def run(backbone: OmniBackbone, batch: OmniBatch) -> tuple[list[torch.Tensor], torch.Tensor]:
    with sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
        hidden = states(backbone, batch)
    return real(hidden, batch), gate_weights(state)


@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.no_grad()
def test_batch_mates_do_not_matter(backbone: OmniBackbone, dtype: torch.dtype, experts: int) -> None:
    own, _ = adapted(backbone, dtype=dtype, experts_per_group=experts, wake=0.1)
    together, w = run(own, make_batch(own, answer="happy"))
    for seed, kind in enumerate(MIXED):
        alone, w_alone = run(own, collate([make_sample(own, kind, seed, answer="happy")], 0))
        torch.testing.assert_close(w[:, seed], w_alone[:, 0], **(TOLERANCE if dtype == torch.float32 else BF16))
        if dtype == torch.float32 or not sparse(own):  # bf16 noise may send a token to other experts of the backbone
            torch.testing.assert_close(together[seed], alone[0], **(TOLERANCE if dtype == torch.float32 else BF16))


def sparse(backbone: OmniBackbone) -> bool:
    return "moe" in backbone.family.name


@pytest.mark.parametrize("experts", [1, 3])
@torch.no_grad()
def test_padding_side_does_not_matter(backbone: OmniBackbone, experts: int) -> None:
    own, _ = adapted(backbone, experts_per_group=experts)
    batch = replace_media(own, make_batch(own, answer="happy"))
    left, w_left = run(own, batch)
    right, w_right = run(own, right_padded(batch))
    torch.testing.assert_close(w_left, w_right, **TOLERANCE)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


def replace_media(backbone: OmniBackbone, batch: OmniBatch) -> OmniBatch:
    return replace(batch, media=backbone.encode(batch.media))


@pytest.mark.parametrize("answer", ["happy", "<think>voice loud; words calm</think> <answer>happy</answer>"])
@torch.no_grad()
def test_answer_tokens_never_reach_the_gate(backbone: OmniBackbone, answer: str) -> None:
    own, _ = adapted(backbone)
    batch = make_batch(own, answer=answer)
    other = batch.input_ids.clone()
    written = ~batch.prompt_mask & batch.attention_mask.bool()
    assert written.sum() > len(batch) * len(answer.split())
    other[written] = (other[written] + 7) % 200
    (_, w), (_, w_other) = run(own, batch), run(own, replace(batch, input_ids=other))
    assert torch.equal(w, w_other)


@torch.no_grad()
def test_a_hidden_modality_is_hidden_from_the_gate(backbone: OmniBackbone) -> None:
    """With the picture hidden, nothing that others read depends on it: neither w nor any visible token."""
    own, _ = adapted(backbone)
    batch = replace_media(own, make_batch(own, MIXED[:1]))
    other = replace(batch, media=replace(batch.media, videos=[swapped(v) for v in batch.media.videos]))
    hidden = batch.hidden_keys("visual")
    found = []
    for data in (batch, other):
        embeds, extra = own.embed(data.input_ids, data.media)
        extra = {k: v for k, v in extra.items() if not k.startswith(("deepstack", "visual"))}
        mask = causal_mask(data.attention_mask, hidden)
        with sequence_state(own, roles=data.roles, prompt_mask=data.prompt_mask, hidden=hidden) as state:
            out = own.hidden_states(embeds, mask, data.position_ids, **extra)
        found.append((gate_weights(state), out[:, ~hidden[0]]))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-6)
    assert not torch.allclose(found[0][0], run(own, batch)[1], atol=1e-3)


def swapped(video):
    return replace(video, features=video.features.flip(0) + 1)


@torch.no_grad()
def test_text_only_samples_use_a_zero_visual_mean(backbone: OmniBackbone) -> None:
    own, _ = adapted(backbone)
    batch = make_batch(own, [("text",), ("audio",)])
    _, w = run(own, batch)
    for layer in own.language_model.layers:
        half = layer.mose_gate.mose_W["default"]
        half[:, : half.shape[1] // 2] += 5.0
    assert torch.equal(run(own, batch)[1], w)
