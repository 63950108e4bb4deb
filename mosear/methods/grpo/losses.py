"""The arithmetic of group-relative policy optimisation, on tensors alone.

P prompts, G completions of each (a group), T tokens at most. ``new``, ``old`` and ``reference`` are log-probabilities
``[P, G, T]`` of the sampled tokens under the policy that trains, the policy that wrote them, and the reference.

* GRPO: Shao et al. 2024, DeepSeekMath (arXiv:2402.03300), equations 3 and 4.
* Dr. GRPO: Liu et al. 2025 (arXiv:2503.20783): neither the division by the standard deviation nor by the length.
* DAPO: Yu et al. 2025 (arXiv:2503.14476): a mean over tokens, two clip bounds, groups without variance drawn again.
* GSPO: Zheng et al. 2025 (arXiv:2507.18071): one ratio per completion, the geometric mean of its tokens' ratios.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

LossType = Literal["grpo", "dr_grpo", "dapo", "gspo"]
LOSS_TYPES: tuple[LossType, ...] = get_args(LossType)


@dataclass(frozen=True)
class Objective:
    """What is optimised.

    Attributes:
        loss_type: see the module.
        beta: weight of the divergence from the reference; 0 = no reference.
        clip_low: a ratio counts as at least ``1 - clip_low``, where that makes the objective smaller.
        clip_high: and as at most ``1 + clip_high``.
        max_tokens: T of every step, by which ``dr_grpo`` divides.
    """

    loss_type: LossType
    beta: float
    clip_low: float
    clip_high: float
    max_tokens: int


@dataclass(frozen=True)
class PolicyLoss:
    """What completions add to a loss, which is ``summed / count`` over the global batch.

    Attributes:
        summed: differentiable scalar.
        count: completions (``grpo``, ``gspo``), completions times T (``dr_grpo``) or tokens (``dapo``).
        divergence: summed over tokens, without gradients; 0 without a reference.
        clipped: number of tokens (``gspo``: of completions) whose gradient the clip takes away.
        ratios: how many there are.
    """

    summed: Tensor
    count: Tensor
    divergence: Tensor
    clipped: Tensor
    ratios: Tensor


def completion_mask(ids: Tensor, end_id: int) -> Tensor:
    """bool ``[..., T]``: tokens up to and with the first end token of ``ids [..., T]``; all where there is none."""
    ended = (ids == end_id).cumsum(-1)
    return (ended == 0) | ((ended == 1) & (ids == end_id))


def advantages(rewards: Tensor, *, scale: bool, epsilon: float = 1e-4) -> Tensor:
    """How much better a completion is than its group.

        A_i = (r_i - mean r) / (std r + epsilon)          with the unbiased standard deviation
        A_i =  r_i - mean r                               without ``scale``

    Completions without any reward (NaN) are in no mean, and their advantage is 0.

    Args:
        rewards: ``[P, G]``.
        scale: divide by the standard deviation.
        epsilon: keeps groups of nearly equal rewards finite.
    """
    known = ~rewards.isnan()
    count = known.sum(1, keepdim=True).clamp(min=1)
    difference = (rewards - rewards.nansum(1, keepdim=True) / count).nan_to_num(0.0)
    if not scale:
        return difference
    variance = difference.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return difference / (variance.sqrt() + epsilon)


def without_variance(rewards: Tensor) -> Tensor:
    """bool ``[P]``: groups of ``rewards [P, G]`` that are all alike, from which nothing can be learned."""
    lowest = rewards.nan_to_num(float("inf")).amin(1)
    return ~(rewards.nan_to_num(float("-inf")).amax(1) > lowest)


def divergence(new: Tensor, reference: Tensor) -> Tensor:
    """The estimate ``k3`` of ``KL(new || reference)`` per token (Schulman, joschu.net/blog/kl-approx.html).

    ``exp(d) - d - 1`` with ``d = log p_reference - log p_new``: never negative, and unbiased for tokens of ``new``.
    """
    d = reference - new
    return d.exp() - d - 1


def policy_loss(
    new: Tensor, old: Tensor, reference: Tensor | None, advantage: Tensor, mask: Tensor, objective: Objective
) -> PolicyLoss:
    """The clipped objective, as a loss.

        ratio_t = exp(new_t - old_t)                                 gspo: exp(mean over t of (new_t - old_t))
        l_t = - min(ratio_t A, clip(ratio_t, 1 - clip_low, 1 + clip_high) A) + beta k3_t

        grpo, gspo:  mean over completions of the mean over their tokens of l_t
        dr_grpo:     sum over all tokens of l_t / (completions max_tokens)
        dapo:        mean over all tokens of l_t

    Args:
        new: ``[P, G, T]``, differentiable.
        old: ``[P, G, T]``, without gradients.
        reference: ``[P, G, T]``; needed with ``beta > 0``.
        advantage: ``[P, G]``.
        mask: bool ``[P, G, T]`` of :func:`completion_mask`; a completion without any token counts as one of loss 0.
        objective: the settings.
    """
    real = mask.to(new.dtype)
    lengths = real.sum(-1).clamp(min=1)
    log_ratio = (new - old) * real
    by_sequence = objective.loss_type == "gspo"
    if by_sequence:
        log_ratio = (log_ratio.sum(-1) / lengths)[..., None]
    ratio, gain = log_ratio.exp(), advantage[..., None]
    bounded = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
    losses = -torch.minimum(ratio * gain, bounded * gain).expand(mask.shape)
    distance = torch.zeros_like(new)
    if objective.beta:
        assert reference is not None, "beta > 0 needs a reference"
        distance = divergence(new, reference)
        losses = losses + objective.beta * distance
    losses = losses.masked_fill(~mask, 0.0)
    if objective.loss_type in ("grpo", "gspo"):
        summed, count = (losses.sum(-1) / lengths).sum(), lengths.new_tensor(float(lengths.numel()))
    elif objective.loss_type == "dr_grpo":
        summed, count = losses.sum(), lengths.new_tensor(float(lengths.numel() * objective.max_tokens))
    else:
        summed, count = losses.sum(), real.sum()
    counted = mask.any(-1, keepdim=True) if by_sequence else mask
    lost = ((ratio > 1 + objective.clip_high) & (gain > 0)) | ((ratio < 1 - objective.clip_low) & (gain < 0))
    return PolicyLoss(
        summed=summed,
        count=count,
        divergence=distance.detach().masked_fill(~mask, 0.0).sum(),
        clipped=(lost & counted).sum(),
        ratios=counted.sum(),
    )


def expected_reward(log_p: Tensor, rewards: Tensor) -> Tensor:
    """``J = sum over labels of p r``: ``[P]`` from ``log_p [P, C]``, normalised over the labels, and ``rewards``.

    Its gradient is what a group's gradient is an estimate of, without variance. Over many groups, the mean gradient of
    ``advantages(scale=False)`` is ``(G - 1) / G`` of it, since a group's mean contains the completion's own reward.
    """
    return (log_p.exp() * rewards).sum(-1)


def label_divergence(log_p: Tensor, log_reference: Tensor) -> Tensor:
    """``KL(p || reference) = sum over labels of p (log p - log reference)``: ``[P]``, exact, from two ``[P, C]``."""
    return (log_p.exp() * (log_p - log_reference)).sum(-1)
