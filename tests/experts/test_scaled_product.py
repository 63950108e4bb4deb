"""The hand-written derivative between the two products of an adapted projection."""

import pytest
import torch

from mosear.experts.layer import ScaledProduct

SIZES = [(3, 1), (1, 1), (3, 2), (1, 2)]
"""Rows of ``A`` in groups (1: shared by all), and experts per group."""


def inputs(blocks: int, experts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``h [2, 4, 3 or 1, 1, r]``, ``s [2, 4, 3, K, r]`` with masked tokens, ``B [5, 3Kr]`` for r = 2."""
    hidden = torch.randn(2, 4, blocks, 1, 2, dtype=torch.float64)
    scale = torch.randn(2, 4, 3, experts, 2, dtype=torch.float64)
    scale[:, 1] = 0
    b = torch.randn(5, 3 * experts * 2, dtype=torch.float64)
    return hidden.requires_grad_(), scale.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize(("blocks", "experts"), SIZES)
def test_value_and_derivatives(blocks: int, experts: int) -> None:
    given = inputs(blocks, experts)
    hidden, scale, b = given
    expected = torch.zeros(2, 4, 5, dtype=torch.float64)
    for m in range(3):
        for k in range(experts):
            for i in range(2):
                factor = hidden[:, :, m % blocks, 0, i] * scale[:, :, m, k, i]
                expected = expected + factor[..., None] * b[:, (m * experts + k) * 2 + i]
    torch.testing.assert_close(ScaledProduct.apply(*given), expected)
    assert torch.autograd.gradcheck(ScaledProduct.apply, given)
    assert torch.autograd.gradgradcheck(ScaledProduct.apply, given)


@pytest.mark.parametrize(("blocks", "experts"), SIZES)
def test_keeps_no_product(blocks: int, experts: int) -> None:
    given = inputs(blocks, experts)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        ScaledProduct.apply(*given)
    assert {tensor.data_ptr() for tensor in kept} == {tensor.data_ptr() for tensor in given}
