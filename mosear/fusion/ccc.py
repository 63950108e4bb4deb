"""Concordance correlation (Lin 1989), the measure of valence and arousal over time.

CCC(x, y) = 2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))^2)        1/N in covariance and variances
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST = 1e-8


def ccc(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """``[D]``: over everything that the mask leaves, clips and steps alike. Differentiable in the prediction.

    0 where a dimension has no value, or where both are constant.

    Args:
        prediction: ``[..., D]``.
        truth: ``[..., D]``; NaN outside the mask is not read.
        mask: bool ``[..., D]``, or ``[...]`` for all dimensions.
    """
    kept = (mask if mask.dim() == truth.dim() else mask[..., None]).expand_as(truth).flatten(0, -2)
    exact = torch.promote_types(prediction.dtype, torch.float32)
    x = torch.where(kept, prediction.flatten(0, -2).to(exact), 0.0)
    y = torch.where(kept, truth.flatten(0, -2).to(x.dtype), 0.0)
    count = kept.sum(0).clamp(min=1)
    mean_x, mean_y = x.sum(0) / count, y.sum(0) / count
    dx, dy = torch.where(kept, x - mean_x, 0.0), torch.where(kept, y - mean_y, 0.0)
    covariance, spread = (dx * dy).sum(0) / count, (dx * dx + dy * dy).sum(0) / count
    return 2 * covariance / (spread + (mean_x - mean_y) ** 2).clamp(min=_SMALLEST)


def ccc_loss(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """The sum of 1 - CCC over the dimensions that have a value; arguments as in :func:`ccc`."""
    kept = (mask if mask.dim() == truth.dim() else mask[..., None]).expand_as(truth).flatten(0, -2).any(0)
    return torch.where(kept, 1 - ccc(prediction, truth, mask), 0.0).sum()
