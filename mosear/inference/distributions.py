"""Arithmetic on label distributions: how clearly one says something, how far two are apart."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

SMALLEST = 1e-30
"""Probabilities count as at least this: a saturated prediction keeps finite log-odds."""


def log_of(probabilities: Tensor) -> Tensor:
    """``log max(p, SMALLEST)``; NaN stays NaN."""
    return probabilities.clamp(min=SMALLEST).log()


def log_odds(log_p: Tensor, labels: Tensor | None = None) -> Tensor:
    """How clearly a prediction says something.

        log p_y - log (1 - p_y),     p = softmax(log_p)

    Args:
        log_p: ``[..., C]`` log-probabilities, normalised over the candidates or not.
        labels: ``[B]`` y for ``log_p [B, C]``; ``None`` = each prediction's own top label.

    Returns:
        ``[...]``; unlike p itself it tells a sure prediction from a surer one.
    """
    if labels is None:
        ordered = log_p.sort(dim=-1, descending=True).values
        return ordered[..., 0] - ordered[..., 1:].logsumexp(-1)
    own = F.one_hot(labels, log_p.shape[-1]).bool()
    return log_p[own] - log_p.masked_fill(own, float("-inf")).logsumexp(-1)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for disjoint ones, NaN where one is NaN.

        m = (p + q) / 2,    JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2

    Args:
        p: ``[..., C]``.
        q: ``[..., C]``.

    Returns:
        ``[...]`` in [0, 1].
    """
    middle = (p + q) / 2

    def kl(distribution: Tensor) -> Tensor:
        return (distribution * (log_of(distribution) - log_of(middle))).sum(-1)

    return ((kl(p) + kl(q)) / (2 * math.log(2))).clamp(0, 1)
