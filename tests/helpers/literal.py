"""Layers as loops over numbers, to compare modules with: rows are lists, sequences are lists of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

Row = list[float]
Rows = list[Row]


def numbers(values: Tensor) -> list:
    return values.detach().double().tolist()


def affine(layer: nn.Linear, x: Sequence[float]) -> Row:
    return weighted(numbers(layer.weight), numbers(layer.bias), x)


def weighted(weight: Rows, bias: Row, x: Sequence[float]) -> Row:
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def plus(a: Sequence[float], b: Sequence[float]) -> Row:
    return [x + y for x, y in zip(a, b, strict=True)]


def relu(x: Sequence[float]) -> Row:
    return [max(0.0, v) for v in x]


def gelu(x: Sequence[float]) -> Row:
    return [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(x: Sequence[float]) -> Row:
    top = max(x)
    powers = [math.exp(v - top) for v in x]
    return [p / sum(powers) for p in powers]


def norm(x: Sequence[float]) -> float:
    return math.sqrt(sum(v * v for v in x))


def unit(x: Sequence[float]) -> Row:
    return [v / max(norm(x), 1e-12) for v in x]


def layer_norm(layer: nn.LayerNorm, x: Sequence[float]) -> Row:
    centre = sum(x) / len(x)
    spread = math.sqrt(sum((v - centre) ** 2 for v in x) / len(x) + layer.eps)
    return [
        (v - centre) / spread * w + b for v, w, b in zip(x, numbers(layer.weight), numbers(layer.bias), strict=True)
    ]


def mean_of(rows: Sequence[Row], weights: Sequence[float]) -> Row:
    return [sum(w * row[i] for w, row in zip(weights, rows, strict=True)) for i in range(len(rows[0]))]


def attention(layer: nn.MultiheadAttention, queries: Rows, keys: Rows, seen: Callable[[int, int], bool]) -> Rows:
    """``seen(i, j)``: query i may read key j."""
    width, heads = layer.embed_dim, layer.num_heads
    size = width // heads
    weight, bias = numbers(layer.in_proj_weight), numbers(layer.in_proj_bias)
    q, k, v = (
        [weighted(weight[s : s + width], bias[s : s + width], row) for row in rows]
        for s, rows in ((0, queries), (width, keys), (2 * width, keys))
    )
    found = []
    for i in range(len(q)):
        whole: Row = []
        allowed = [j for j in range(len(k)) if seen(i, j)]
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            p = softmax([dot(q[i][part], k[j][part]) / math.sqrt(size) for j in allowed])
            whole += mean_of([v[j][part] for j in allowed], p)
        found.append(affine(layer.out_proj, whole))
    return found


def encoder_layer(layer: nn.TransformerEncoderLayer, rows: Rows) -> Rows:
    """Post-norm, GELU, everything is seen."""
    read = attention(layer.self_attn, rows, rows, lambda i, j: True)
    rows = [layer_norm(layer.norm1, plus(x, a)) for x, a in zip(rows, read, strict=True)]
    return [layer_norm(layer.norm2, plus(x, affine(layer.linear2, gelu(affine(layer.linear1, x))))) for x in rows]


def lstm(layer: nn.LSTM, rows: Rows, start: tuple[Rows, Rows] | None = None) -> tuple[Rows, Row]:
    """Outputs of the last layer, and its last hidden states of both directions."""
    size, directions = layer.hidden_size, 2 if layer.bidirectional else 1
    last: Row = []
    for level in range(layer.num_layers):
        outputs: list[Rows] = []
        last = []
        for direction in range(directions):
            tail = f"l{level}" + ("_reverse" if direction else "")
            w_x, w_h, b_x, b_h = (
                numbers(getattr(layer, f"{name}_{tail}")) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            index = level * directions + direction
            h, c = (list(part[index]) for part in start) if start else ([0.0] * size, [0.0] * size)
            steps = []
            for row in reversed(rows) if direction else rows:
                gates = plus(weighted(w_x, b_x, row), weighted(w_h, b_h, h))
                i, f, g, o = (gates[n * size : (n + 1) * size] for n in range(4))
                c = [sigmoid(f[n]) * c[n] + sigmoid(i[n]) * math.tanh(g[n]) for n in range(size)]
                h = [sigmoid(o[n]) * math.tanh(c[n]) for n in range(size)]
                steps.append(h)
            outputs.append(steps[::-1] if direction else steps)
            last += h
        rows = [[v for part in outputs for v in part[t]] for t in range(len(rows))]
    return rows, last
