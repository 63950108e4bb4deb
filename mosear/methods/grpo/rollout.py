"""Rollouts: groups of completions sampled from the policy.

``method.rollout._target_`` may name another engine: any object with the two methods of :class:`Rollout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from mosear.backbones.partitioned import weights_are_partitioned
from mosear.backbones.sequences import sequence_state
from mosear.experts.lean_lora import folded
from mosear.methods.processes import anywhere

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch
    from mosear.inference.prompts import Prompts
    from mosear.methods.omni_system import OmniSystem

STREAM = 0x524F4C4C
"""Keeps these draws apart from other generators that are seeded with the run's seed and counters."""


@dataclass(frozen=True)
class RolloutRequest:
    """What is to be sampled.

    Attributes:
        batch: P prompts without answers, left-padded, media encoded.
        prompts: the same as the language model reads them.
        group_size: G, completions of each.
        max_new_tokens: T at most.
        temperature: logits are divided by it; 0 takes the most likely token.
        top_p: tokens are drawn from the smallest set with at least this probability.
        seeds: one per prompt; a group depends on its own alone.
        end_id: ends a completion.
        pad_id: stands behind the end.
    """

    batch: OmniBatch
    prompts: Prompts
    group_size: int
    max_new_tokens: int
    temperature: float
    top_p: float
    seeds: Sequence[int]
    end_id: int
    pad_id: int


@dataclass(frozen=True)
class Completions:
    """What was sampled.

    Attributes:
        ids: int64 ``[P, G, T]``, ``pad_id`` behind the end token.
        log_probs: float32 ``[P, G, T]`` of each token given what is before it, after division by the temperature and
            before the cut at ``top_p``; 0 behind the end. ``None`` from an engine that does not tell.
    """

    ids: Tensor
    log_probs: Tensor | None = None


class Rollout(Protocol):
    """Samples completions."""

    def setup(self, system: OmniSystem) -> None:
        """Once before the first step. An engine with weights of its own takes the adapter's from ``system`` later."""

    def __call__(self, request: RolloutRequest) -> Completions:
        """Sample from the policy as it is now; called without gradients, with the model in evaluation mode."""


class CachedRollout:
    """Samples with the model that trains: each prompt is read once, and its KV cache is shared out to its group."""

    def setup(self, system: OmniSystem) -> None:
        """Nothing to prepare."""
        self.backbone = system.backbone

    def __call__(self, request: RolloutRequest) -> Completions:
        """Sample."""
        if weights_are_partitioned():
            return sample(self.backbone, request, together=True)
        with folded(self.backbone.model):
            return sample(self.backbone, request)


def seeds_of(seed: int, step: int, micro_batch: int, attempt: int, positions: Sequence[int]) -> list[int]:
    """One seed per prompt, from the run's seed, counters and the prompt's place in the global batch.

    Args:
        seed: of the run.
        step: optimiser steps so far.
        micro_batch: of this step.
        attempt: how often the group was drawn before.
        positions: of the prompts in the global batch.
    """
    return [
        int(np.random.SeedSequence([STREAM, seed, step, micro_batch, attempt, position]).generate_state(1)[0])
        for position in positions
    ]


@torch.no_grad()
def sample(backbone: OmniBackbone, request: RolloutRequest, *, together: bool = False) -> Completions:
    """Decode all groups in one batch; a row whose completion has ended leaves it.

    Args:
        backbone: with or without an adapter injected.
        request: what to sample.
        together: all processes run as many passes as the one with the longest completion, for weights that are spread
            over them and gathered in each pass.
    """
    batch, prompts, size = request.batch, request.prompts, request.group_size
    device = prompts.embeds.device
    cache = DynamicCache()
    with sequence_state(backbone, roles=prompts.roles, prompt_mask=prompts.prompt, transcript=prompts.transcript):
        states = backbone.hidden_states(prompts.embeds, batch.attention_mask, prompts.positions, cache, **prompts.extra)
    cache.batch_repeat_interleave(size)
    last = states[:, -1].repeat_interleave(size, 0)
    mask = batch.attention_mask.repeat_interleave(size, 0)
    position = prompts.positions.amax(dim=(0, 2)).repeat_interleave(size)
    draws = uniform(request).to(device)
    rows, alive = torch.arange(len(last), device=device), True
    ids = torch.full(draws.shape, request.pad_id, device=device)
    log_probs = torch.zeros(draws.shape, device=device)
    for step in range(request.max_new_tokens):
        token, log_prob = choose(backbone.lm_head(last).float(), draws[rows, step], request.temperature, request.top_p)
        if alive:
            ids[rows, step], log_probs[rows, step] = token, log_prob
        kept = (token != request.end_id).nonzero()[:, 0] if alive else rows.new_zeros(0)
        alive = len(kept) > 0
        if step + 1 == request.max_new_tokens or not (anywhere(alive, device) if together else alive):
            break
        if len(kept) < len(rows):
            kept = kept if alive else kept.new_zeros(1)  # keeps the other processes company
            cache.batch_select_indices(kept)
            rows, token, mask, position = rows[kept], token[kept], mask[kept], position[kept]
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        embeds = backbone.model.get_input_embeddings()(token[:, None])
        last = backbone.hidden_states(embeds, mask, position.expand(3, -1)[..., None], cache)[:, -1]
    used = step + 1
    shape = (len(prompts), size, -1)
    return Completions(ids[:, :used].reshape(shape), log_probs[:, :used].reshape(shape))


def uniform(request: RolloutRequest) -> Tensor:
    """float64 ``[P G, T]`` in [0, 1): a completion's draws do not depend on when others end."""
    shape = (request.group_size, request.max_new_tokens)
    of_groups = []
    for seed in request.seeds:
        generator = torch.Generator().manual_seed(seed)
        of_groups.append(torch.rand(shape, generator=generator, dtype=torch.float64))
    return torch.cat(of_groups)


def choose(logits: Tensor, draws: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Tokens by inversion of the cumulative distribution, and their log-probabilities.

    Args:
        logits: float32 ``[B, V]``.
        draws: float64 ``[B]`` in [0, 1).
        temperature: see :class:`RolloutRequest`.
        top_p: see :class:`RolloutRequest`.
    """
    log_p = (logits / temperature if temperature else logits).log_softmax(-1)
    if not temperature:
        token = log_p.argmax(-1)
        return token, log_p.gather(-1, token[:, None])[:, 0]
    p = log_p.double().exp()
    if top_p < 1:
        likely, order = p.sort(dim=-1, descending=True)
        before = likely.cumsum(-1) - likely
        p = p.scatter(-1, order, likely.masked_fill(before >= top_p, 0.0))
    cumulative = p.cumsum(-1)
    token = torch.searchsorted(cumulative, (draws[:, None] * cumulative[:, -1:]), right=True)[:, 0]
    token = token.clamp(max=logits.shape[-1] - 1)
    return token, log_p.gather(-1, token[:, None])[:, 0]
