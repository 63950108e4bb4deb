"""AR on probabilities alone, against its definition row by row."""

import pytest
import torch
from torch import Tensor

from mosear.steering import AttentionReallocation
from mosear.steering.policies.base import AttentionView
from mosear.steering.rows import Keys
from tests.helpers.eager_steering import AUDIO, VISUAL, reallocate

ROLES = torch.tensor(
    [
        [0, 1, 1, 1, 2, 2, 0, 0],
        [3, 3, 2, 1, 2, 2, 2, 0],  # padding, media that alternate
        [0, 1, 1, 1, 1, 1, 0, 0],  # no video
        [0, 2, 2, 2, 2, 2, 0, 0],  # no audio
        [3, 3, 3, 3, 3, 0, 0, 0],
    ]
)
ANSWER = torch.tensor([[False, False, True, True]]).expand(5, -1)


def random_probabilities(sharpness: float = 2.0) -> Tensor:
    """``[5, 3, 4, 9]``: eight described keys and one of an answer token."""
    logits = sharpness * torch.randn(5, 3, 4, 9)
    padding = torch.cat([ROLES == 3, torch.zeros(5, 1, dtype=torch.bool)], dim=1)
    return logits.masked_fill(padding[:, None, None], float("-inf")).softmax(-1)


def view(probabilities: Tensor, state: Tensor | None = None, layer: int = 0) -> AttentionView:
    keys = Keys.of(ROLES, 9)
    return AttentionView.of(probabilities, keys, ANSWER, layer=layer, state=state)


@pytest.mark.parametrize("criterion", ["mass", "density"])
@pytest.mark.parametrize("distribution", ["proportional", "uniform"])
@pytest.mark.parametrize("phase", ["prefill", "decode", "both"])
@pytest.mark.parametrize("sharpness", [0.5, 4.0])
def test_equal_to_the_definition(criterion: str, distribution: str, phase: str, sharpness: float) -> None:
    probabilities = random_probabilities(sharpness)
    options = {"threshold": 0.45, "portion": 0.7, "criterion": criterion, "distribution": distribution, "phase": phase}
    edited, flagged = AttentionReallocation(**options).edit(probabilities, view(probabilities))
    by_hand = reallocate(**options)
    roles = torch.cat([ROLES, torch.zeros(5, 1, dtype=torch.long)], dim=1)
    for sample, head, row in torch.cartesian_prod(torch.arange(5), torch.arange(3), torch.arange(4)).tolist():
        before = probabilities[sample, head, row]
        expected = by_hand(before, roles[sample], sample, 0, head, bool(ANSWER[sample, row]))
        torch.testing.assert_close(edited[sample, head, row], expected, rtol=1e-5, atol=1e-6)
        assert bool(flagged[sample, head, row]) == (expected is not before)
    assert flagged[:2].any() and not flagged[2:].any()


@pytest.mark.parametrize("distribution", ["proportional", "uniform"])
@pytest.mark.parametrize("portion", [0.0, 0.3, 1.0])
def test_who_loses_and_who_gains(distribution: str, portion: float) -> None:
    probabilities = random_probabilities()
    policy = AttentionReallocation(threshold=0.3, portion=portion, distribution=distribution)
    edited, flagged = policy.edit(probabilities, view(probabilities))
    roles = torch.cat([ROLES, torch.zeros(5, 1, dtype=torch.long)], dim=1)[:, None, None].expand_as(edited)
    audio, visual = roles == AUDIO, roles == VISUAL
    torch.testing.assert_close(edited.sum(-1), probabilities.sum(-1), rtol=0, atol=1e-6)
    lost = ((probabilities - edited) * audio).sum(-1)[flagged]
    torch.testing.assert_close(lost, portion * (probabilities * audio).sum(-1)[flagged], rtol=1e-5, atol=1e-6)
    assert edited[~audio & ~visual].equal(probabilities[~audio & ~visual]), "bitwise: only video gains"
    assert (edited[visual] >= probabilities[visual]).all()
    assert edited[~flagged].equal(probabilities[~flagged])


@pytest.mark.parametrize("distribution", ["proportional", "uniform"])
def test_attention_that_is_all_on_one_side(distribution: str) -> None:
    """Underflow of one modality: nothing is divided by zero, nothing is invented."""
    logits = torch.full((5, 1, 1, 9), -1.0)
    logits[:2, ..., :8].masked_fill_((ROLES[:2] == VISUAL)[:, None, None], -200.0)
    probabilities = logits.softmax(-1)
    one_row = AttentionView.of(probabilities, Keys.of(ROLES, 9), ANSWER[:, :1], layer=0, state=None)
    policy = AttentionReallocation(threshold=0.1, portion=0.5, distribution=distribution)
    edited, flagged = policy.edit(probabilities, one_row)
    assert edited.equal(probabilities) and not flagged.any()
    # Just above underflow, a / v is huge but finite.
    logits[:2, ..., :8].masked_fill_((ROLES[:2] == VISUAL)[:, None, None], -85.0)
    probabilities = logits.softmax(-1)
    one_row = AttentionView.of(probabilities, Keys.of(ROLES, 9), ANSWER[:, :1], layer=0, state=None)
    edited, flagged = policy.edit(probabilities, one_row)
    assert flagged[:2].all() and edited.isfinite().all()
    torch.testing.assert_close(edited.sum(-1), torch.ones(5, 1, 1))


def test_layers() -> None:
    policy = AttentionReallocation(layers=[1, 3])
    assert policy.layers == (1, 3)
    assert [policy.acts_in(layer) for layer in range(4)] == [False, True, False, True]
    assert policy.problems(layers=3, heads=2) == [
        "AttentionReallocation.layers: there is no layer 3, they go from 0 to 2"
    ]
    assert AttentionReallocation().acts_in(99) and AttentionReallocation().problems(1, 1) == []


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ValueError, match="AttentionReallocation") as error:
        AttentionReallocation(
            threshold=1.0, portion=-0.1, criterion="length", distribution="even", layers=[], phase="never"
        )
    for name in ("threshold=1.0", "portion=-0.1", "'length'", "'even'", "layers=[]", "'never'"):
        assert name in str(error.value)
