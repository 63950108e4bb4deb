"""Greedy decoding with explicit positions and media from the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from mosear.experts.state import sequence_state

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch


@torch.no_grad()
def generate_ids(backbone: OmniBackbone, batch: OmniBatch, *, max_new_tokens: int, end_id: int, pad_id: int) -> Tensor:
    """Most likely continuation of each prompt: ``[B, T]``, padded with ``pad_id`` after the end token.

    Equal to ``model.generate(do_sample=False)`` (a test says so), with two differences that evaluation needs: media may
    be encoded already, and no module state is left behind (transformers keeps ``rope_deltas`` on the module).
    """
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    cache = DynamicCache()
    mask, position = batch.attention_mask, batch.position_ids.amax(dim=(0, 2))
    with sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask, transcript=batch.transcript):
        hidden = backbone.hidden_states(embeds, mask, batch.position_ids, cache, **extra)
    finished = torch.zeros(len(batch), dtype=torch.bool, device=mask.device)
    tokens: list[Tensor] = []
    for _ in range(max_new_tokens):
        token = backbone.lm_head(hidden[:, -1]).float().argmax(-1).masked_fill(finished, pad_id)
        tokens.append(token)
        finished = finished | (token == end_id)
        if bool(finished.all()) or len(tokens) == max_new_tokens:
            break
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
        hidden = backbone.hidden_states(
            backbone.model.get_input_embeddings()(token[:, None]), mask, position.expand(3, -1)[..., None], cache
        )
    return torch.stack(tokens, dim=1)


def generate_text(backbone: OmniBackbone, batch: OmniBatch, *, max_new_tokens: int = 16) -> list[str]:
    """Greedy answers as text, without special tokens."""
    tokenizer = backbone.processor.tokenizer
    ids = generate_ids(
        backbone, batch, max_new_tokens=max_new_tokens, end_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id
    )
    return tokenizer.batch_decode(ids, skip_special_tokens=True)
