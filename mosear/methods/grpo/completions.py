"""Log-probabilities of whole groups of completions, in one pass that reads each prompt once.

A group's completions follow their prompt as branches of a tree of tokens, as candidate labels do in label scoring: each
token sees the prompt and its own completion. There is no KV cache, so gradient checkpointing may be on, and a modality
gate is computed once per prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mosear.backbones.labels import LabelTokens
from mosear.backbones.sequences import SequenceState
from mosear.inference.prompts import Prompts
from mosear.inference.scoring import tree_pass


@dataclass(frozen=True)
class CompletionScores:
    """What a model says about G completions of each of P prompts.

    Attributes:
        log_probs: float32 ``[P, G, T]`` of each token given what is before it; 0 where the mask is false.
        entropy: float32, summed over the tokens of the mask, in nats, without gradients.
        state: the pass, for a gate's regularisers.
    """

    log_probs: Tensor
    entropy: Tensor
    state: SequenceState


def completion_pass(
    thinker: Any,
    language_model: nn.Module,
    prompts: Prompts,
    ids: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    hidden: Tensor | None = None,
    quiet: bool = False,
) -> CompletionScores:
    """Score completions.

    Args:
        thinker: the model, with or without an adapter injected.
        language_model: its decoder.
        prompts: without answers, padded on either side.
        ids: ``[P, G, T]``.
        mask: bool ``[P, G, T]``, the tokens that count.
        temperature: logits are divided by it, as when the completions were sampled.
        hidden: bool ``[P, L]``, prompt tokens that are invisible.
        quiet: see :class:`SequenceState`.
    """
    tree = behind(prompts, ids, hidden)
    at_end, states, state = tree_pass(thinker, language_model, prompts, tree, hidden=hidden, quiet=quiet)
    return CompletionScores(*_read(thinker.get_output_embeddings(), at_end, states, ids, mask, temperature), state)


def behind(prompts: Prompts, ids: Tensor, hidden: Tensor | None = None) -> LabelTokens:
    """All tokens of ``ids [P, G, T]`` but the last of each completion, which no other token reads."""
    groups, size, length = ids.shape
    own = torch.ones(length - 1, length - 1, dtype=torch.bool, device=ids.device).tril()
    return LabelTokens.behind(
        ids[..., :-1].reshape(groups, size * (length - 1)),
        torch.arange(length - 1, device=ids.device).repeat(size),
        torch.block_diag(*[own] * size),
        prompts.real,
        prompts.positions,
        hidden,
    )


def _read(
    head: nn.Module, at_end: Tensor, states: Tensor, ids: Tensor, mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    groups, size, length = ids.shape
    following = states.view(groups, size, length - 1, states.shape[-1])
    before = torch.cat([at_end[:, None].expand(-1, size, -1, -1), following], dim=2)
    # The head runs on tokens that count alone: logits are the largest tensor of the step.
    steps = (head(before[mask]).float() / temperature).log_softmax(-1)
    chosen = steps.gather(-1, ids[mask][:, None])[:, 0]
    with torch.no_grad():
        entropy = -(steps.exp() * steps).sum()
    return torch.zeros(ids.shape, device=ids.device).masked_scatter(mask, chosen), entropy
