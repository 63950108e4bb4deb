"""Attention masks that hide a modality.

Zeroing a modality in the 2-D mask is wrong: the thinker's rope index drops masked tokens, so every later position
shifts. Positions stay those of the whole prompt; only the keys become invisible.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(attention_mask: Tensor, hidden_keys: Tensor | None = None) -> Tensor:
    """Who may look at whom in one pass over a whole sequence.

    Args:
        attention_mask: ``[B, L]``, 0 on padding.
        hidden_keys: ``[B, L]`` bool, True on tokens that no other token may see.

    Returns:
        bool ``[B, 1, L, L]``: query i sees key j iff j <= i, j is real and not hidden; every token sees itself, so no
        row is empty (rows of padding and of hidden tokens are never read).
    """
    length = attention_mask.shape[1]
    keys = attention_mask.bool()
    if hidden_keys is not None:
        keys = keys & ~hidden_keys
    causal = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=attention_mask.device)
    return (causal & keys[:, None, None, :]) | itself


def tree_mask(attention_mask: Tensor, ancestors: Tensor, hidden_keys: Tensor | None = None) -> Tensor:
    """Who may look at whom when a token tree follows a prompt.

    Args:
        attention_mask: ``[B, L]`` of the prompt, 0 on padding.
        ancestors: bool ``[N, N]``, True where node i descends from (or is) node j.
        hidden_keys: ``[B, L]`` bool, prompt tokens that are hidden.

    Returns:
        bool ``[B, 1, N, L + N]``: a node sees the visible prompt, its ancestors and itself.
    """
    prompt = attention_mask.bool()
    if hidden_keys is not None:
        prompt = prompt & ~hidden_keys
    batch, nodes = prompt.shape[0], ancestors.shape[0]
    past = prompt[:, None, None, :].expand(batch, 1, nodes, -1)
    return torch.cat([past, ancestors[None, None].expand(batch, 1, nodes, nodes)], dim=-1)
