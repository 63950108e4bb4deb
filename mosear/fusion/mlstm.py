"""The mLSTM block of xLSTM (arXiv 2405.04517): an LSTM whose memory is a matrix.

With W hidden numbers, an inner width of ``expansion * W`` and H heads of d numbers each:

    [u, z] = W_up LayerNorm(x)                          c = SiLU(causal depthwise convolution(u))
    q, k   = block-diagonal maps of c                   v = block-diagonal map of u
    i_t    = w_i [q;k;v]_t + b_i                        f_t = w_f [q;k;v]_t + b_f       one number per head
    C_t    = sigmoid(f_t) C_{t-1} + exp(i_t) v_t k_t^T / sqrt(d)           [d, d], C_0 = 0
    n_t    = sigmoid(f_t) n_{t-1} + exp(i_t) k_t / sqrt(d)                 [d],    n_0 = 0
    h_t    = C_t q_t / max(|n_t^T q_t|, 1)
    out    = x + W_down ( (GroupNorm(h) + s (.) c) (.) SiLU(z) )

:func:`mlstm` computes all steps at once (the parallel form); time and memory grow with the square of the length.

Published values: 4 heads, convolutions of 4 steps, blocks of 4 numbers, expansion 2; initial values as in the ``xlstm``
package, which would have been used if ``mlstm_kernels``, on which it depends, had an open-source licence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-6


def mlstm(q: Tensor, k: Tensor, v: Tensor, input_gate: Tensor, forget_gate: Tensor) -> Tensor:
    """h_t of the module's docstring for all t.

    Sums are scaled by exp(-m_t), m_t the largest exponent in them, so that no exponential overflows.

    Args:
        q: ``[B, H, T, d]``.
        k: ``[B, H, T, d]``.
        v: ``[B, H, T, d]``.
        input_gate: i, ``[B, H, T]``, before its exponential.
        forget_gate: f, ``[B, H, T]``, before its sigmoid.
    """
    passed = functional.logsigmoid(forget_gate).cumsum(-1)
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    exponents = passed[..., :, None] - passed[..., None, :] + input_gate[..., None, :]  # [B, H, T, of which step]
    exponents = exponents.masked_fill(later, -torch.inf)
    largest = exponents.amax(-1, keepdim=True)
    weights = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) * (exponents - largest).exp()
    scale = torch.maximum(weights.sum(-1, keepdim=True).abs(), (-largest).exp())
    return weights / (scale + EPSILON) @ v


class MLSTMBlock(nn.Module):
    """``[B, T, W]`` to ``[B, T, W]``; a step reads itself and steps before it.

    Args:
        width: W.
        heads: H.
        kernel_size: of the convolution.
        block_size: of the block-diagonal maps.
        expansion: inner width / W.
        blocks: of the stack it is part of, for the initial values of its last map.
    """

    def __init__(self, width: int, heads: int, kernel_size: int, block_size: int, expansion: int, blocks: int) -> None:
        super().__init__()
        inner = expansion * width
        if inner % heads or inner % block_size:
            raise ValueError(
                f"An mLSTM of {width} hidden numbers works on {inner}, which neither {heads} heads nor maps of "
                f"{block_size} numbers may cut into unequal parts. Choose hidden, heads and block_size so that both "
                f"divide {expansion} x hidden."
            )
        self.heads, self.kernel_size = heads, kernel_size
        self.norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.convolution = nn.Conv1d(inner, inner, kernel_size, groups=inner)
        self.q, self.k, self.v = (nn.Conv1d(inner, inner, 1, groups=inner // block_size, bias=False) for _ in range(3))
        self.input_gate, self.forget_gate = nn.Linear(3 * inner, heads), nn.Linear(3 * inner, heads)
        self.head_norm = nn.Parameter(torch.ones(inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, width, bias=False)
        self._initialise(width, blocks)

    def _initialise(self, width: int, blocks: int) -> None:
        for layer in (self.up, self.q, self.k, self.v):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (5 * width)))
        nn.init.normal_(self.down.weight, std=2 / blocks / math.sqrt(width))
        nn.init.zeros_(self.input_gate.weight)
        nn.init.normal_(self.input_gate.bias, std=0.1)
        nn.init.zeros_(self.forget_gate.weight)
        with torch.no_grad():
            self.forget_gate.bias.copy_(torch.linspace(3.0, 6.0, self.heads))

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.up(self.norm(x)).chunk(2, dim=-1)
        u = u.transpose(1, 2)
        c = functional.silu(self.convolution(functional.pad(u, (self.kernel_size - 1, 0))))
        q, k, v = (layer(read).transpose(1, 2) for layer, read in ((self.q, c), (self.k, c), (self.v, u)))
        gates = torch.cat([q, k, v], dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        h = mlstm(q, k, v, self.input_gate(gates).transpose(1, 2), self.forget_gate(gates).transpose(1, 2))
        h = h.transpose(1, 2).flatten(2)
        normed = functional.group_norm(h.flatten(0, 1), self.heads, self.head_norm).view_as(h)
        out: Tensor = x + self.down((normed + self.skip * c.transpose(1, 2)) * functional.silu(z))
        return out
