"""Answers by label scoring: every candidate label is scored from one shared prompt.

    score(label) = sum over the label's tokens and the end token of log p(token | prompt, earlier tokens)

The candidates form a prefix trie. The prompt runs once; then ONE further pass runs all inner nodes of the trie, each
seeing the prompt's keys and its own ancestors. The prompt must be complete (not only a shared prefix) because a
modality gate depends on all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mosear.backbones.labels import LabelTrie
from mosear.backbones.masks import causal_mask, tree_mask
from mosear.experts.state import sequence_state

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch

__all__ = ["UNIMODAL", "LabelTrie", "available_modalities", "label_log_probs", "unimodal_distributions"]


def label_log_probs(
    backbone: OmniBackbone,
    batch: OmniBatch,
    trie: LabelTrie,
    *,
    hide: tuple[str, ...] = (),
) -> Tensor:
    """Summed log-probabilities of the candidate labels.

    Args:
        backbone: with or without an adapter injected.
        batch: prompts without answers, left-padded, media raw or encoded.
        trie: the candidates.
        hide: modalities whose tokens nobody may see (``visual``, ``audio``, ``text``); positions stay as they are.

    Returns:
        float32 ``[B, C]``, differentiable where gradients are enabled.
    """
    config: Any = backbone.language_model.config
    implementation = config._attn_implementation
    if implementation == "eager" or implementation.startswith(
        "flash"
    ):  # eager ADDS a mask: a boolean one hides nothing
        raise ValueError(
            f"Label scoring needs boolean masks, which attn_implementation={implementation!r} cannot take. Load with "
            "attn_implementation='sdpa'."
        )
    if backbone.language_model.training and getattr(backbone.language_model, "gradient_checkpointing", False):
        raise ValueError(
            "Label scoring needs the KV cache, which gradient checkpointing drops: put the model in eval mode."
        )
    hidden_keys = batch.hidden_keys(*hide) if hide else None
    mask = batch.attention_mask if hidden_keys is None else causal_mask(batch.attention_mask, hidden_keys)
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    cache = DynamicCache()
    with sequence_state(
        backbone, roles=batch.roles, prompt_mask=batch.prompt_mask, hidden=hidden_keys, transcript=batch.transcript
    ):
        prompt = backbone.hidden_states(embeds, mask, batch.position_ids, cache, **extra)
        nodes = _node_log_probs(backbone, batch, trie, cache, hidden_keys)
    after_prompt = backbone.lm_head(prompt[:, -1:]).float().log_softmax(-1)
    return trie.scores(torch.cat([after_prompt, nodes], dim=1))


def _node_log_probs(
    backbone: OmniBackbone, batch: OmniBatch, trie: LabelTrie, cache: DynamicCache, hidden_keys: Tensor | None
) -> Tensor:
    """Log-probabilities of what follows each inner node: ``[B, N, V]``."""
    device = batch.input_ids.device
    nodes = torch.tensor(trie.tokens, device=device).expand(len(batch), -1)
    last = batch.position_ids.amax(dim=(0, 2))
    positions = last[:, None] + 1 + torch.tensor(trie.depths(), device=device)
    hidden = backbone.hidden_states(
        backbone.model.get_input_embeddings()(nodes),
        tree_mask(batch.attention_mask, trie.ancestors().to(device), hidden_keys),
        positions.expand(3, -1, -1),
        cache,
    )
    return backbone.lm_head(hidden).float().log_softmax(-1)


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
