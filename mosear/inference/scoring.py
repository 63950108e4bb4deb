"""Answers by label scoring: every candidate label is scored in the one pass that reads the prompt.

    score(label) = sum over the label's tokens and the end token of log p(token | prompt, earlier tokens)

The candidates form a prefix trie, whose inner nodes follow the prompt as a tree of tokens: each sees the prompt, its
own ancestors and itself. There is no KV cache, so gradient checkpointing may be on; a modality gate, which depends on
the prompt alone, is computed once for all candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mosear.backbones.labels import LabelTokens, LabelTrie
from mosear.backbones.sequences import SequenceState, sequence_state
from mosear.inference.prompts import Prompts
from mosear.roles import TokenRole

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch


def label_log_probs(backbone: OmniBackbone, batch: OmniBatch, trie: LabelTrie, *, hide: Sequence[str] = ()) -> Tensor:
    """The scores of :func:`label_pass` for the prompts of a batch."""
    return label_pass(backbone.model, backbone.language_model, Prompts.of(backbone, batch), trie, hide=hide)[0]


def label_pass(
    thinker: Any,
    language_model: nn.Module,
    prompts: Prompts,
    trie: LabelTrie,
    *,
    hide: Sequence[str] = (),
    quiet: bool = False,
) -> tuple[Tensor, SequenceState]:
    """Summed log-probabilities of the candidate labels, and what listeners recorded about the pass.

    Args:
        thinker: the model, with or without an adapter injected.
        language_model: its decoder.
        prompts: what to answer.
        trie: the candidates.
        hide: modalities whose tokens are invisible (``visual``, ``audio``, ``text``); positions stay as they are.
        quiet: see :class:`SequenceState`.

    Returns:
        float32 ``[B, C]``, differentiable where gradients are enabled, and the state of the pass.
    """
    hidden = None
    if hide:
        prompts = prompts.without(hide)
        hidden = prompts.hidden(hide)  # none are left, except of prompts with further arguments
    labels = trie.after(prompts.real, prompts.positions, hidden)
    at_end, states, state = tree_pass(thinker, language_model, prompts, labels, hidden=hidden, quiet=quiet)
    steps = thinker.get_output_embeddings()(torch.cat([at_end, states], dim=1)).float().log_softmax(-1)
    return trie.scores(steps), state


def tree_pass(
    thinker: Any,
    language_model: nn.Module,
    prompts: Prompts,
    tree: LabelTokens,
    *,
    hidden: Tensor | None = None,
    quiet: bool = False,
) -> tuple[Tensor, Tensor, SequenceState]:
    """One pass over prompts and a tree of tokens behind each.

    Args:
        thinker: the model, with or without an adapter injected.
        language_model: its decoder.
        prompts: what comes first.
        tree: what follows.
        hidden: bool ``[B, L]``, prompt tokens that are invisible.
        quiet: see :class:`SequenceState`.

    Returns:
        States of the prompts' last tokens ``[B, 1, D]``, of the tree's ``[B, N, D]``, and the state of the pass.
    """
    decoder: Any = language_model
    implementation = decoder.config._attn_implementation
    if implementation == "eager" or implementation.startswith("flash"):  # eager ADDS a mask: a bool one hides nothing
        raise ValueError(
            f"Label scoring needs boolean masks, which attn_implementation={implementation!r} cannot take. Load with "
            "attn_implementation='sdpa'."
        )
    nodes = thinker.get_input_embeddings()(tree.ids).to(prompts.embeds.dtype)
    embeds = torch.cat([prompts.embeds, nodes], dim=1)
    if torch.is_grad_enabled() and getattr(decoder, "gradient_checkpointing", False):
        embeds.requires_grad_(True)  # a checkpointed segment whose inputs need no gradient would give none
    with sequence_state(
        thinker,
        roles=tree.extend(prompts.roles, int(TokenRole.TEXT)),
        prompt_mask=tree.extend(prompts.prompt, False),
        hidden=None if hidden is None else tree.extend(hidden, False),
        transcript=None if prompts.transcript is None else tree.extend(prompts.transcript, False),
        quiet=quiet,
    ) as state:
        states = decoder(
            inputs_embeds=embeds,
            attention_mask=tree.mask,
            position_ids=tree.position_ids,
            use_cache=False,
            **prompts.extra_for(tree.ids.shape[1]),
        ).last_hidden_state
    at_end = states[torch.arange(len(prompts), device=states.device), prompts.last.to(states.device)][:, None]
    return at_end, states[:, prompts.roles.shape[1] :], state
