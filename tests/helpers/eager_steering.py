"""Steering the slow way: the whole attention matrix, edited entry by entry, keys and values repeated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from mosear.backbones.backbone import OmniBackbone
from mosear.roles import TokenRole

NAME = "eager_by_hand"
AUDIO, VISUAL, PAD = int(TokenRole.AUDIO), int(TokenRole.VISUAL), int(TokenRole.PAD)

RowEdit = Callable[[Tensor, Tensor, int, int, int, bool], Tensor]
"""``(probabilities [K], roles [K], sample, layer, head, is answer) -> probabilities``."""


def steered_positions(roles: Tensor) -> list[int]:
    """Positions after the last media token of one sample ``[L]``; none without media, none on padding."""
    media = [i for i, role in enumerate(roles.tolist()) if role in (AUDIO, VISUAL)]
    return [i for i in range(media[-1] + 1, len(roles)) if roles[i] != PAD] if media else []


def all_probabilities(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """``[B, H, Q, K]`` with keys repeated over their group; a row without keys is zero."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.float() @ key.float().transpose(-1, -2) * scaling
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
    return scores.masked_fill(~mask, float("-inf")).softmax(-1).nan_to_num(0.0)


@contextmanager
def eager_steering(backbone: OmniBackbone, roles: Tensor, prompt_mask: Tensor, edit: RowEdit) -> Iterator[list[Tensor]]:
    """The language model runs on the reference inside the block, for single passes over whole sequences.

    Yields:
        The edited probabilities of each layer.
    """
    seen: list[Tensor] = []

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        probabilities = all_probabilities(query, key, mask, kwargs["scaling"])
        for sample, own in enumerate(roles):
            for row in steered_positions(own):
                for head in range(query.shape[1]):
                    probabilities[sample, head, row] = edit(
                        probabilities[sample, head, row],
                        own,
                        sample,
                        module.layer_idx,
                        head,
                        not bool(prompt_mask[sample, row]),
                    )
        seen.append(probabilities)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        return (probabilities @ value.float()).transpose(1, 2).to(query.dtype).contiguous(), None

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config: Any = backbone.language_model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield seen
    finally:
        config._attn_implementation = before


def unchanged(probabilities: Tensor, *_: Any) -> Tensor:
    """No steering."""
    return probabilities


def reallocate(
    threshold: float,
    portion: float,
    criterion: str = "mass",
    distribution: str = "proportional",
    layers: tuple[int, ...] | None = None,
    phase: str = "both",
) -> RowEdit:
    """AR for one row, from its definition."""

    def edit(p: Tensor, roles: Tensor, sample: int, layer: int, head: int, answer: bool) -> Tensor:
        audio, visual = roles == AUDIO, roles == VISUAL
        a, v = float(p[audio].double().sum()), float(p[visual].double().sum())
        if a == 0 or v == 0 or (layers is not None and layer not in layers):
            return p
        if phase == ("prefill" if answer else "decode"):
            return p
        shares = (a, v) if criterion == "mass" else (a / int(audio.sum()), v / int(visual.sum()))
        if shares[0] / sum(shares) <= threshold:
            return p
        out = p.clone()
        out[audio] = (1 - portion) * p[audio]
        if distribution == "proportional":
            out[visual] = p[visual] * (1 + portion * a / v)
        else:
            out[visual] = p[visual] + portion * a / int(visual.sum())
        return out

    return edit


def add_to_logits(bonus: Tensor, heads: list[tuple[int, int]] | None = None) -> RowEdit:
    """CHASE for one row: ``bonus [B, 2]`` is added to the logits of audio and visual tokens."""

    def edit(p: Tensor, roles: Tensor, sample: int, layer: int, head: int, answer: bool) -> Tensor:
        if heads is not None and (layer, head) not in heads:
            return p
        logits = p.double().log()
        logits[roles == AUDIO] += bonus[sample, 0].double()
        logits[roles == VISUAL] += bonus[sample, 1].double()
        return logits.softmax(-1).float()

    return edit
