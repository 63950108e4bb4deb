"""Answers by label scoring: every candidate label is scored in the one pass that reads the prompt.

    score(label) = sum over the label's tokens and the end token of log p(token | prompt, earlier tokens)

The candidates form a prefix trie, whose inner nodes follow the prompt as a tree of tokens: each sees the prompt, its
own ancestors and itself. There is no KV cache, so gradient checkpointing may be on; a modality gate, which depends on
the prompt alone, is computed once for all candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mosear.backbones.labels import LabelTrie
from mosear.experts.state import SequenceState, sequence_state
from mosear.roles import TokenRole

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch

__all__ = ["UNIMODAL", "LabelTrie", "available_modalities", "label_log_probs", "label_pass", "unimodal_distributions"]


def label_log_probs(backbone: OmniBackbone, batch: OmniBatch, trie: LabelTrie, *, hide: tuple[str, ...] = ()) -> Tensor:
    """The scores of :func:`label_pass`."""
    return label_pass(backbone, batch, trie, hide=hide)[0]


def label_pass(
    backbone: OmniBackbone, batch: OmniBatch, trie: LabelTrie, *, hide: tuple[str, ...] = ()
) -> tuple[Tensor, SequenceState]:
    """Summed log-probabilities of the candidate labels, and what the gate said.

    Args:
        backbone: with or without an adapter injected.
        batch: prompts without answers, left-padded, media raw or encoded.
        trie: the candidates.
        hide: modalities whose tokens nobody may see (``visual``, ``audio``, ``text``); positions stay as they are.

    Returns:
        float32 ``[B, C]``, differentiable where gradients are enabled, and the state of the pass.
    """
    decoder: Any = backbone.language_model
    implementation = decoder.config._attn_implementation
    if implementation == "eager" or implementation.startswith("flash"):  # eager ADDS a mask: a bool one hides nothing
        raise ValueError(
            f"Label scoring needs boolean masks, which attn_implementation={implementation!r} cannot take. Load with "
            "attn_implementation='sdpa'."
        )
    hidden_keys = batch.hidden_keys(*hide) if hide else None
    labels = trie.after(batch.attention_mask, batch.position_ids, hidden_keys)
    embeds, extra = backbone.embed(torch.cat([batch.input_ids, labels.ids], dim=1), batch.media)
    if torch.is_grad_enabled() and getattr(decoder, "gradient_checkpointing", False):
        embeds.requires_grad_(True)  # a checkpointed segment whose inputs need no gradient would give none
    with sequence_state(
        backbone,
        roles=labels.extend(batch.roles, int(TokenRole.TEXT)),
        prompt_mask=labels.extend(batch.prompt_mask, False),
        hidden=None if hidden_keys is None else labels.extend(hidden_keys, False),
        transcript=None if batch.transcript is None else labels.extend(batch.transcript, False),
    ) as state:
        states = backbone.hidden_states(embeds, labels.mask, labels.position_ids, **extra)
    # Column 0 follows the whole prompt, column 1 + i follows node i.
    steps = backbone.lm_head(states[:, batch.input_ids.shape[1] - 1 :]).float().log_softmax(-1)
    return trie.scores(steps), state


UNIMODAL = {"visual": ("audio", "text"), "audio": ("visual", "text"), "text": ("visual", "audio")}


def available_modalities(batch: OmniBatch) -> dict[str, Tensor]:
    """Per modality, ``[B]`` bool: does the clip carry it?"""
    return {modality: batch.hidden_keys(modality).any(dim=1) for modality in UNIMODAL}


def unimodal_distributions(backbone: OmniBackbone, batch: OmniBatch, trie: LabelTrie) -> dict[str, Tensor]:
    """What the model reads from each modality alone: ``[B, C]`` per modality, NaN where a clip lacks it."""
    present = available_modalities(batch)
    readings = {}
    for modality, others in UNIMODAL.items():
        if present[modality].any():
            reading = label_log_probs(backbone, batch, trie, hide=others).softmax(-1)
        else:
            reading = torch.zeros(len(batch), len(trie.labels), device=batch.input_ids.device)
        readings[modality] = reading.masked_fill(~present[modality][:, None], float("nan"))
    return readings
