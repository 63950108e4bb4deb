"""Greedy decoding with explicit positions, media from the cache, and log-probabilities of what was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from mosear.backbones.sequences import sequence_state

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch


@dataclass(frozen=True)
class Generated:
    """Continuations of a batch of prompts.

    Attributes:
        ids: ``[B, T]``, padded after the end token.
        log_probs: float32 ``[B, T]`` of each token given what is before it; 0 on padding.
    """

    ids: Tensor
    log_probs: Tensor


@torch.no_grad()
def generate(backbone: OmniBackbone, batch: OmniBatch, *, max_new_tokens: int, end_id: int, pad_id: int) -> Generated:
    """Most likely continuation of each prompt.

    Equal to ``model.generate(do_sample=False)`` (a test says so), with two differences that evaluation needs: media may
    be encoded already, and no module state is left behind (transformers keeps ``rope_deltas`` on the module).

    Args:
        backbone: with or without an adapter injected.
        batch: prompts without answers, left-padded.
        max_new_tokens: T at most.
        end_id: ends an answer.
        pad_id: stands behind the end.
    """
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    cache = DynamicCache()
    mask, position = batch.attention_mask, batch.position_ids.amax(dim=(0, 2))
    with sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask, transcript=batch.transcript):
        hidden = backbone.hidden_states(embeds, mask, batch.position_ids, cache, **extra)
    finished = torch.zeros(len(batch), dtype=torch.bool, device=mask.device)
    tokens: list[Tensor] = []
    log_probs: list[Tensor] = []
    for _ in range(max_new_tokens):
        logits = backbone.lm_head(hidden[:, -1]).float()
        best = logits.argmax(-1)
        log_prob = logits.log_softmax(-1).gather(-1, best[:, None])[:, 0]
        token = best.masked_fill(finished, pad_id)
        tokens.append(token)
        log_probs.append(log_prob.masked_fill(finished, 0.0))
        finished = finished | (token == end_id)
        if bool(finished.all()) or len(tokens) == max_new_tokens:
            break
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
        hidden = backbone.hidden_states(
            backbone.model.get_input_embeddings()(token[:, None]), mask, position.expand(3, -1)[..., None], cache
        )
    return Generated(torch.stack(tokens, dim=1), torch.stack(log_probs, dim=1))


def generate_text(backbone: OmniBackbone, batch: OmniBatch, *, max_new_tokens: int = 16) -> list[str]:
    """Greedy answers as text, without special tokens."""
    tokenizer = backbone.processor.tokenizer
    found = generate(
        backbone, batch, max_new_tokens=max_new_tokens, end_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id
    )
    return tokenizer.batch_decode(found.ids, skip_special_tokens=True)
