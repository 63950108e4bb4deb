"""Weights and inputs made from a formula, so that figures of another implementation can be compared without files."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def wave(shape: Sequence[int], phase: float, scale: float = 0.3) -> Tensor:
    """``scale * sin(0.37 i + phase)`` for the i-th number."""
    count = torch.Size(shape).numel()
    return (torch.sin(torch.arange(count, dtype=torch.float64) * 0.37 + phase) * scale).float().reshape(*shape)


@torch.no_grad()
def fill(parameters: Sequence[nn.Parameter], scale: float = 0.3) -> None:
    """The n-th parameter (from 1) gets a wave of phase n."""
    for phase, parameter in enumerate(parameters, start=1):
        parameter.copy_(wave(parameter.shape, float(phase), scale))
