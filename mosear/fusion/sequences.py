"""Sequences of different lengths in one block: means, recurrent passes, a common time axis.

A block is ``[B, T, D]`` with int64 lengths ``[B]``; what stands behind a clip's length is not read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def step_mask(lengths: Tensor, steps: int) -> Tensor:
    """bool ``[B, steps]``, True within the length."""
    return torch.arange(steps, device=lengths.device)[None] < lengths[:, None]


def without_padding(values: Tensor, lengths: Tensor) -> Tensor:
    """``[B, T, D]`` with zeros behind the lengths."""
    return values.masked_fill(~step_mask(lengths, values.shape[1])[..., None], 0.0)


def mean_over_time(values: Tensor, lengths: Tensor) -> Tensor:
    """``[B, D]``, zeros where the length is 0."""
    return without_padding(values, lengths).sum(1) / lengths.clamp(min=1)[:, None]


def last_step(values: Tensor, lengths: Tensor) -> Tensor:
    """``[B, D]`` of each clip's last step, of the first where the length is 0."""
    index = (lengths.clamp(min=1) - 1)[:, None, None].expand(-1, 1, values.shape[2])
    return values.gather(1, index)[:, 0]


def through_lstm(
    lstm: nn.LSTM, values: Tensor, lengths: Tensor, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """A recurrent pass over true lengths; a clip of length 0 is read as one step of zeros.

    Args:
        lstm: with ``batch_first``.
        values: ``[B, T, D]``.
        lengths: ``[B]``.
        start: hidden and cell state, each ``[layers x directions, B, hidden]``; ``None`` = zeros.

    Returns:
        Outputs ``[B, T, directions x hidden]``, zeros behind a clip's length; the last hidden state of the last layer
        ``[B, directions x hidden]``.
    """
    counts = lengths.clamp(min=1).cpu()
    packed = pack_padded_sequence(without_padding(values, lengths), counts, batch_first=True, enforce_sorted=False)
    outputs, (hidden, _) = lstm(packed, start)
    block, _ = pad_packed_sequence(outputs, batch_first=True, total_length=values.shape[1])
    last = hidden[-2:] if lstm.bidirectional else hidden[-1:]
    return block, torch.cat(list(last), dim=-1)


class LastState(nn.Module):
    """The last state of an LSTM over true lengths, and a linear map of it.

    Args:
        size: of a step.
        hidden: of the LSTM.
        out: of the map.
    """

    def __init__(self, size: int, hidden: int, out: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, hidden, batch_first=True)
        self.out = nn.Linear(hidden, out)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """``[B, out]``."""
        mapped: Tensor = self.out(through_lstm(self.lstm, values, lengths)[1])
        return mapped


def resampled(values: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
    """Linear interpolation along time, from each clip's own length to another.

    Step j of N stands in the middle of its share of the time, so it reads the sequence of length L at
    ``(j + 1/2) L / N - 1/2``, held at the ends (``torch.nn.functional.interpolate`` with ``align_corners=False``).
    Where L = N nothing changes.

    Args:
        values: ``[B, T, D]``.
        lengths: L, ``[B]``; zeros come out where it is 0.
        steps: N, ``[B]``, at least 1.

    Returns:
        ``[B, max(steps), D]``, zeros behind a clip's steps.
    """
    longest = int(steps.max())
    index = torch.arange(longest, device=values.device)[None]
    last = (lengths.clamp(min=1) - 1)[:, None]
    place = (index + 0.5) * (lengths / steps)[:, None] - 0.5
    place = torch.minimum(place.clamp(min=0), last.to(place.dtype))
    below = place.floor().long()
    above = torch.minimum(below + 1, last)
    share = (place - below)[..., None].to(values.dtype)

    def read(position: Tensor) -> Tensor:
        return values.gather(1, position[..., None].expand(-1, -1, values.shape[2]))

    mixed = (1 - share) * read(below) + share * read(above)
    return mixed.masked_fill((~step_mask(steps, longest) | (lengths == 0)[:, None])[..., None], 0.0)
