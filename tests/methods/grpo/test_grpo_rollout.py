"""Sampled groups, and the pass that scores them, against plain teacher-forced passes over single sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.sequences import sequence_state
from mosear.data.sample import OmniBatch, collate
from mosear.inference.generation import generate
from mosear.inference.prompts import Prompts
from mosear.methods.grpo.completions import completion_pass
from mosear.methods.grpo.losses import completion_mask
from mosear.methods.grpo.rollout import Completions, RolloutRequest, choose, sample, seeds_of, uniform
from mosear.roles import TokenRole
from tests.helpers.mose_models import adapted
from tests.helpers.omni_samples import MIXED, fresh, inject_lora, make_sample

SIZE, STEPS = 3, 6
NEVER = -1


def with_mose(backbone: OmniBackbone) -> OmniBackbone:
    return adapted(backbone)[0]


def with_lora(backbone: OmniBackbone) -> OmniBackbone:
    own = fresh(backbone)
    inject_lora(own, "q_proj", "v_proj")
    return own


@pytest.fixture(params=[with_lora, with_mose], ids=["lora", "mose"])
def own(request: pytest.FixtureRequest, backbone: OmniBackbone) -> OmniBackbone:
    make: Callable[[OmniBackbone], OmniBackbone] = request.param
    return make(backbone)


def prompts(own: OmniBackbone, *rows: int) -> OmniBatch:
    """The same clips whatever their company; of different lengths, so that a batch is padded."""
    samples = [make_sample(own, MIXED[row], row) for row in rows or range(3)]
    samples = [replace(each, media=own.encode(each.media)) for each in samples]
    return collate(samples, own.processor.tokenizer.pad_token_id)


def request_for(own: OmniBackbone, batch: OmniBatch, **settings: Any) -> RolloutRequest:
    plain: dict[str, Any] = {
        "group_size": SIZE, "max_new_tokens": STEPS, "temperature": 1.0, "top_p": 1.0, "end_id": NEVER,
        "seeds": list(range(len(batch))), "pad_id": own.processor.tokenizer.pad_token_id,
    }  # fmt: skip
    return RolloutRequest(batch=batch, prompts=Prompts.of(own, batch), **{**plain, **settings})


def ending(own: OmniBackbone, batch: OmniBatch, **settings: Any) -> tuple[RolloutRequest, Completions]:
    """Completions of which some end early, others never: the end token is one that some of them write."""
    free = sample(own, request_for(own, batch, **settings))
    request = request_for(own, batch, **settings, end_id=int(free.ids[0, 0, 2]))
    found = sample(own, request)
    lengths = completion_mask(found.ids, request.end_id).sum(-1)
    assert lengths.min() < lengths.max(), "the test needs completions of different lengths"
    return request, found


@torch.no_grad()
def teacher_forced(own: OmniBackbone, batch: OmniBatch, answer: list[int], temperature: float = 1.0) -> Tensor:
    """Log-probability of each token of one completion of one prompt: a plain causal pass, no cache, no tree."""
    prompt, count = Prompts.of(own, batch), len(answer)
    assert len(batch) == 1
    words = own.model.get_input_embeddings()(torch.tensor([answer]))
    following = batch.position_ids.max() + torch.arange(1, count + 1)
    text = torch.full((1, count), int(TokenRole.TEXT))
    with sequence_state(
        own, roles=torch.cat([prompt.roles, text], 1), prompt_mask=torch.cat([prompt.prompt, text < 0], 1)
    ):
        hidden = own.hidden_states(
            torch.cat([prompt.embeds, words], dim=1),
            torch.ones(1, prompt.roles.shape[1] + count, dtype=torch.long),
            torch.cat([batch.position_ids, following.expand(3, 1, -1)], dim=2),
            **prompt.extra_for(count),
        )
    log_p = (own.lm_head(hidden)[0].float() / temperature).log_softmax(-1)
    return log_p[prompt.roles.shape[1] - 1 :][torch.arange(count), torch.tensor(answer)]


def test_sampled_and_scored_log_probs_are_those_of_plain_passes(own: OmniBackbone) -> None:
    """With padding, company in the batch, rows that have left it, a temperature, and (mose) a gate in the cache."""
    batch, temperature = prompts(own), 0.7
    assert (batch.attention_mask == 0).any(), "the test needs padding"
    request, found = ending(own, batch, temperature=temperature)
    mask = completion_mask(found.ids, request.end_id)
    with torch.no_grad():
        scores = completion_pass(
            own.model, own.language_model, request.prompts, found.ids, mask, temperature=temperature
        )
    assert found.log_probs is not None
    for row in range(len(batch)):
        alone = prompts(own, row)
        for g in range(SIZE):
            answer = found.ids[row, g][mask[row, g]].tolist()
            expected = teacher_forced(own, alone, answer, temperature)
            torch.testing.assert_close(found.log_probs[row, g][mask[row, g]], expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(scores.log_probs[row, g][mask[row, g]], expected, rtol=1e-4, atol=1e-4)
            assert set(found.ids[row, g][~mask[row, g]].tolist()) <= {request.pad_id}
    assert (found.log_probs[~mask] == 0).all() and (scores.log_probs[~mask] == 0).all()


def test_right_padded_prompts_score_the_same(own: OmniBackbone) -> None:
    """A training batch has its answers cut off, which leaves padding behind the prompts."""
    batch = prompts(own)
    request, found = ending(own, batch)
    mask = completion_mask(found.ids, request.end_id)
    shift = (batch.attention_mask == 0).sum(1).tolist()
    left = request.prompts

    def rolled(tensor: Tensor) -> Tensor:
        return torch.stack([row.roll(-by, 0) for row, by in zip(tensor, shift, strict=True)])

    right = replace(
        left, embeds=rolled(left.embeds), roles=rolled(left.roles), prompt=rolled(left.prompt),
        transcript=None if left.transcript is None else rolled(left.transcript),
        positions=torch.stack([rolled(axis) for axis in left.positions]),
        extra={} if not left.extra else left.extra,
    )  # fmt: skip
    if left.extra:
        pytest.skip("further arguments of the language model go by place")
    with torch.no_grad():
        both = [completion_pass(own.model, own.language_model, p, found.ids, mask).log_probs for p in (left, right)]
    torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-4)


def test_greedy_is_what_evaluation_generates(own: OmniBackbone) -> None:
    batch = prompts(own)
    options = {"max_new_tokens": STEPS, "pad_id": own.processor.tokenizer.pad_token_id}
    end_id = int(generate(own, batch, end_id=NEVER, **options).ids[0, 2])
    expected = generate(own, batch, end_id=end_id, **options)
    found = sample(own, request_for(own, batch, temperature=0.0, end_id=end_id))
    assert found.log_probs is not None
    for g in range(SIZE):
        assert torch.equal(found.ids[:, g], expected.ids)
        torch.testing.assert_close(found.log_probs[:, g], expected.log_probs, rtol=1e-4, atol=1e-4)


def test_a_group_depends_on_its_own_seed_alone(qwen25: OmniBackbone) -> None:
    own = with_lora(qwen25)
    together = sample(own, request_for(own, prompts(own), seeds=[5, 6, 7]))
    again = sample(own, request_for(own, prompts(own), seeds=[5, 6, 7]))
    other = sample(own, request_for(own, prompts(own), seeds=[5, 8, 7]))
    alone = sample(own, request_for(own, prompts(own, 1), seeds=[6]))
    assert torch.equal(together.ids, again.ids) and torch.equal(together.ids[1], alone.ids[0])
    assert torch.equal(together.ids[[0, 2]], other.ids[[0, 2]]) and not torch.equal(together.ids[1], other.ids[1])
    assert len({tuple(row) for row in together.ids[0].tolist()}) > 1, "the completions of a group differ"


def test_an_early_end_changes_no_other_completion(qwen25: OmniBackbone) -> None:
    own = with_lora(qwen25)
    free = sample(own, request_for(own, prompts(own)))
    request, found = ending(own, prompts(own))
    mask = completion_mask(found.ids, request.end_id)
    assert torch.equal(found.ids[mask], free.ids[..., : found.ids.shape[-1]][mask])


def test_seeds_differ_by_every_counter() -> None:
    plain = (0, 3, 1, 0)
    seeds = [seeds_of(*plain, [0, 1, 2])]
    for index in range(len(plain)):
        changed = list(plain)
        changed[index] += 1
        seeds.append(seeds_of(*changed, [0, 1, 2]))
    flat = [seed for row in seeds for seed in row]
    assert len(set(flat)) == len(flat)
    assert seeds_of(*plain, [1, 2]) == seeds[0][1:], "by the place in the global batch, not in the process"


# -- the draw of one token ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.7)])
def test_draws_have_the_wanted_distribution(temperature: float, top_p: float) -> None:
    p = torch.tensor([0.05, 0.5, 0.15, 0.3])
    n = 40_000
    tempered = (p.log() / temperature).softmax(-1)
    wanted = tempered.clone()
    if top_p < 1:
        wanted[[0, 2]] = 0.0  # 0.5 + 0.3 reach 0.7, and nothing smaller does
    wanted = wanted / wanted.sum()
    draws = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    token, log_prob = choose(p.log().expand(n, -1), draws, temperature, top_p)
    shares = torch.bincount(token, minlength=4) / n
    error = (wanted * (1 - wanted) / n).sqrt()
    assert ((shares - wanted).abs() <= 4 * error + 1e-12).all()
    torch.testing.assert_close(log_prob, tempered.log()[token]), "before the cut at top_p"


def test_uniform_numbers_are_a_function_of_the_seeds(qwen25: OmniBackbone) -> None:
    batch = prompts(qwen25, 0, 1)
    request = request_for(qwen25, batch, seeds=[3, 4])
    draws = uniform(request)
    assert draws.shape == (2 * SIZE, STEPS) and draws.dtype == torch.float64
    assert torch.equal(draws[SIZE:], uniform(request_for(qwen25, prompts(qwen25, 1), seeds=[4])))


def test_gradients_are_those_of_plain_passes(qwen25: OmniBackbone) -> None:
    """Of the summed log-probability of all tokens, with respect to MoSE's weights, gate included."""
    own, model = adapted(qwen25)
    batch = prompts(own, 0, 1)
    request = request_for(own, batch)
    ids = sample(own, request).ids
    mask = torch.ones_like(ids, dtype=torch.bool)
    weights = [p for p in model.parameters() if p.requires_grad]
    scores = completion_pass(own.model, own.language_model, request.prompts, ids, mask)
    found = torch.autograd.grad(scores.log_probs.sum(), weights)
    plain = torch.zeros(())
    for row in range(2):
        for g in range(SIZE):
            with torch.enable_grad():
                plain = plain + teacher_forced.__wrapped__(own, prompts(own, row), ids[row, g].tolist()).sum()  # type: ignore[attr-defined]
    expected = torch.autograd.grad(plain, weights)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
