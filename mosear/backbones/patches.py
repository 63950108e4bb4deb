"""Pictures enter a tower in patches that do not overlap: their convolution is one matrix product, and run as one.

Kernels for 3-D convolutions are made for overlapping windows; here they take several times as long.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PatchProjection(nn.Conv3d):
    """A convolution whose stride is its kernel; same parameters, same result up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """``[N, channels, *kernel]`` to ``[N, out, 1, 1, 1]``; other sizes as the convolution does it."""
        if input.shape[2:] != self.weight.shape[2:]:
            return super().forward(input)
        return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def project_patches_by_product(model: nn.Module) -> None:
    """Turn the convolutions of a model into :class:`PatchProjection` where that is the same."""
    for module in model.modules():
        if type(module) is nn.Conv3d and _without_overlap(module):
            module.__class__ = PatchProjection


def _without_overlap(module: nn.Conv3d) -> bool:
    plain = module.groups == 1 and not any(module.padding) and set(module.dilation) == {1}
    return plain and tuple(module.stride) == tuple(module.kernel_size)
