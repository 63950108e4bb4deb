"""The loops that models are compared with agree with torch."""

import torch
from torch import nn

from tests.helpers.literal import attention, encoder_layer, layer_norm, lstm, numbers


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_the_loops_are_the_layers() -> None:
    torch.manual_seed(0)
    x, y = rows(5, 8), rows(3, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 6, activation="gelu", batch_first=True).eval()
    torch.testing.assert_close(torch.tensor(encoder_layer(layer, numbers(x))), layer(x[None])[0], check_dtype=False)
    mha, hidden = nn.MultiheadAttention(8, 2, batch_first=True), torch.ones(5, 3, dtype=torch.bool).triu(1)
    found = attention(mha, numbers(x), numbers(y), lambda i, j: j <= i)
    torch.testing.assert_close(torch.tensor(found), mha(x, y, y, attn_mask=hidden)[0], check_dtype=False)
    norm = nn.LayerNorm(8)
    torch.testing.assert_close(torch.tensor(layer_norm(norm, numbers(x)[0])), norm(x)[0], check_dtype=False)
    for bidirectional in (False, True):
        net = nn.LSTM(8, 3, num_layers=2, batch_first=True, bidirectional=bidirectional)
        start = rows(2, 4 if bidirectional else 2, 3)
        found, last = lstm(net, numbers(x), tuple(numbers(start)))  # type: ignore[arg-type]
        expected, (h, _) = net(x, (start[0], start[1]))
        torch.testing.assert_close(torch.tensor(found), expected, check_dtype=False)
        torch.testing.assert_close(torch.tensor(last), h[-2 if bidirectional else -1 :].reshape(-1), check_dtype=False)
