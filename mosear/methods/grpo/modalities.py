"""Options that look at single modalities: rollouts without one, and reasoning that depends on what is seen and heard.

* ``dropped_share``: in this share of the groups, the prompt lacks the picture or the sound.
* ``masked_kl``: what a policy considers is to depend on its evidence. After OPPO (arXiv:2606.25325) and PAPO
  (arXiv:2507.06448); that all tokens inside ``<think>`` count, the estimate and the bound are our reading.

      k_t = exp(d_t) - d_t - 1,   d_t = log p(token | a modality hidden) - log p(token | everything)
      loss = - masked_kl mean over tokens t inside <think> of min(k_t, masked_kl_limit)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mosear.data.batches import without_modality
from mosear.data.sample import Sample
from mosear.methods.grpo.losses import divergence
from mosear.methods.grpo.rollout import seeds_of
from mosear.roles import TokenRole

if TYPE_CHECKING:
    from mosear.inference.prompts import Prompts

STREAM_DROP, STREAM_HIDE = 0, 1
MEDIA: tuple[Literal["visual"], Literal["audio"]] = ("visual", "audio")
END = "</think>"


def draws(seed: int, step: int, micro_batch: int, stream: int, positions: Sequence[int]) -> list[float]:
    """A uniform number per clip: a function of the seed, the step and the clip's place in the global batch."""
    return [
        float(np.random.default_rng([own, stream]).random()) for own in seeds_of(seed, step, micro_batch, 0, positions)
    ]


def dropped(samples: Sequence[Sample], share: float, numbers: Sequence[float]) -> tuple[list[Sample], int]:
    """The prompts, and from how many of them a modality was taken: with even odds picture or sound, where both are."""
    found, count = [], 0
    for sample, number in zip(samples, numbers, strict=True):
        both = all(bool((sample.roles == int(TokenRole[name.upper()])).any()) for name in MEDIA)
        if both and number < share:
            sample, count = without_modality(sample, MEDIA[0] if number < share / 2 else MEDIA[1]), count + 1
        found.append(sample)
    return found, count


def hidden_media(prompts: Prompts, numbers: Sequence[float]) -> Tensor:
    """bool ``[P, L]``: all tokens of one modality per clip, picture or sound with even odds where both are there."""
    visual, audio = (prompts.tokens_of(name) for name in MEDIA)
    first = torch.tensor(numbers, device=visual.device) < 0.5
    first = torch.where(visual.any(1) & audio.any(1), first, visual.any(1))
    return torch.where(first[:, None], visual, audio)


def thought_mask(rows: Sequence[Sequence[int]], length: int, tokenizer: Any) -> Tensor:
    """bool ``[N, T]``: the tokens before those that close the thought; none where it is not closed."""
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        whole = tokenizer.decode(list(row), skip_special_tokens=True)
        before = whole.partition(END)[0]
        if before == whole:
            continue
        # Tokens and characters do not match one to one: the first prefix that says more than the thought ends it.
        ends = bisect_left(
            range(len(row) + 1), len(before) + 1,
            key=lambda n: len(tokenizer.decode(list(row[:n]), skip_special_tokens=True)),
        )  # fmt: skip
        mask[index, : max(0, ends - 1)] = True
    return mask


def dependence(new: Tensor, without: Tensor, mask: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Summed ``min(k_t, limit)`` over the tokens of the mask, and their number.

    Args:
        new: ``[P, G, T]`` log-probabilities with everything, differentiable.
        without: likewise with a modality hidden, without gradients.
        mask: bool ``[P, G, T]``.
        limit: tokens whose divergence is larger have no gradient.
    """
    found = divergence(new, without).clamp(max=limit).masked_fill(~mask, 0.0)
    return found.sum(), mask.sum().to(new.dtype)
