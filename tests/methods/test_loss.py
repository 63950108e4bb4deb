"""The loss on answer positions alone, against the head on every position."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mosear.backbones.backbone import OmniBackbone
from mosear.data.sample import OmniBatch, Sample, collate
from mosear.methods.answer_tuning.loss import IGNORE, answer_loss
from tests.helpers.omni_samples import MIXED, fresh, inject_lora, make_sample

BATCH, LENGTH, WIDTH, VOCAB = 3, 11, 8, 50

Kinds = tuple[tuple[str, ...], ...]


def random_problem(answers: tuple[int, ...]) -> tuple[Tensor, nn.Linear, Tensor]:
    """States, head and labels; sample i ends with ``answers[i]`` answer tokens."""
    hidden = torch.randn(BATCH, LENGTH, WIDTH, requires_grad=True)
    labels = torch.full((BATCH, LENGTH), IGNORE)
    for row, count in enumerate(answers):
        labels[row, LENGTH - count :] = torch.randint(VOCAB, (count,))
    return hidden, nn.Linear(WIDTH, VOCAB, bias=False), labels


def naive_loss(hidden: Tensor, head: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    """Mean cross-entropy, position by position, from the logits of all positions."""
    log_probs = head(hidden).log_softmax(-1)
    losses = [
        -log_probs[row, place - 1, labels[row, place]]
        for row in range(len(labels))
        for place in range(1, labels.shape[1])
        if labels[row, place] != IGNORE
    ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("answers", [(2, 2, 2), (1, 4, 0), (10, 1, 3)], ids=str)
def test_value_and_gradients_equal_the_naive_way(answers: tuple[int, ...]) -> None:
    hidden, head, labels = random_problem(answers)
    total, count = answer_loss(hidden, head, labels)
    expected = naive_loss(hidden, head, labels)
    assert int(count) == sum(answers)
    torch.testing.assert_close(total / count, expected, rtol=1e-6, atol=0)
    ours = torch.autograd.grad(total / count, [hidden, head.weight])
    for own, reference in zip(ours, torch.autograd.grad(expected, [hidden, head.weight]), strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-5, atol=1e-8)


def test_the_head_sees_answer_positions_only() -> None:
    hidden, head, labels = random_problem((2, 3, 1))
    seen: list[Tensor] = []
    answer_loss(hidden, lambda states: seen.append(states) or head(states), labels)
    assert len(seen) == 1
    assert torch.equal(seen[0], torch.cat([hidden[0, -3:-1], hidden[1, -4:-1], hidden[2, -2:-1]]))


def test_without_answers_the_loss_is_zero_and_has_a_gradient() -> None:
    hidden, head, labels = random_problem((0, 0, 0))
    total, count = answer_loss(hidden, head, labels)
    assert (total.item(), count.item()) == (0.0, 1.0)
    total.backward()
    assert hidden.grad is not None and not hidden.grad.any()


def test_low_precision_logits_are_summed_in_float32() -> None:
    hidden, head, labels = random_problem((2, 2, 2))
    total, _ = answer_loss(hidden.bfloat16(), head.bfloat16(), labels)
    assert total.dtype == torch.float32


# -- the whole backbone, against transformers' own loss ------------------------------------------------------------


@pytest.fixture(params=["qwen25", "qwen3"])
def adapted(request: pytest.FixtureRequest) -> OmniBackbone:
    backbone = fresh(request.getfixturevalue(request.param)).freeze()
    inject_lora(backbone, "q_proj", "o_proj")
    return backbone


def samples(backbone: OmniBackbone, kinds: Kinds) -> list[Sample]:
    answers = ("worried", "sad", "surprise", "happy", "angry")
    return [make_sample(backbone, kind, seed, answer=answers[seed]) for seed, kind in enumerate(kinds)]


def our_loss(backbone: OmniBackbone, batch: OmniBatch) -> Tensor:
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    hidden = backbone.hidden_states(embeds, batch.attention_mask, batch.position_ids, **extra)
    total, count = answer_loss(hidden, backbone.lm_head, batch.labels)
    return total / count


def their_loss(backbone: OmniBackbone, kinds: Kinds) -> Tensor:
    """transformers' own loss, one clip at a time: its audio tower is not batch-invariant to the last bit."""
    batches = [collate([sample], pad_id=0) for sample in samples(backbone, kinds)]
    losses = [backbone.model(**batch.model_inputs(), labels=batch.labels).loss for batch in batches]
    counts = [int((batch.labels != IGNORE).sum()) for batch in batches]
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


@pytest.mark.parametrize("kinds", [MIXED[:1], MIXED], ids=["one clip", "padded batch"])
def test_value_and_adapter_gradients_equal_those_of_transformers(adapted: OmniBackbone, kinds: Kinds) -> None:
    batch = collate(samples(adapted, kinds), adapted.processor.tokenizer.pad_token_id)
    trained = {name: p for name, p in adapted.model.named_parameters() if p.requires_grad}
    ours, theirs = our_loss(adapted, batch), their_loss(adapted, kinds)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    pairs = zip(
        torch.autograd.grad(ours, list(trained.values())),
        torch.autograd.grad(theirs, list(trained.values())),
        strict=True,
    )
    for name, (own, reference) in zip(trained, pairs, strict=True):
        assert reference.abs().max() > 0, name
        assert (own - reference).norm() <= 1e-5 * reference.norm(), name
