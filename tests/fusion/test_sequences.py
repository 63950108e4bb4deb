"""Sequences of different lengths: means, recurrent passes, linear resampling."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mosear.fusion.sequences import last_step, mean_over_time, resampled, step_mask, through_lstm, without_padding

LENGTHS = torch.tensor([5, 1, 0, 3])


def block() -> torch.Tensor:
    values = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    return torch.where(step_mask(LENGTHS, 6)[..., None], values, torch.full_like(values, float("nan")))


def test_padding_is_not_read() -> None:
    values = block()
    assert torch.equal(without_padding(values, LENGTHS)[0, 5], torch.zeros(3))
    mean = mean_over_time(values, LENGTHS)
    torch.testing.assert_close(mean[0], values[0, :5].mean(0))
    torch.testing.assert_close(mean[1], values[1, 0])
    assert not mean[2].any()
    last = last_step(values, LENGTHS)
    assert torch.equal(last[0], values[0, 4]) and torch.equal(last[3], values[3, 2])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrent_pass_over_each_clip_alone_gives_the_same(bidirectional: bool) -> None:
    lstm, values = nn.LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=bidirectional), block()
    directions = 2 if bidirectional else 1
    start = (torch.randn(2 * directions, 4, 4), torch.randn(2 * directions, 4, 4))
    outputs, last = through_lstm(lstm, values, LENGTHS, start)
    assert outputs.shape == (4, 6, 4 * directions)
    for row, length in enumerate(LENGTHS.tolist()):
        own = values[row : row + 1, :length] if length else torch.zeros(1, 1, 3)
        expected, (hidden, _) = lstm(own, (start[0][:, row : row + 1], start[1][:, row : row + 1]))
        torch.testing.assert_close(outputs[row, : own.shape[1]], expected[0])
        assert not outputs[row, own.shape[1] :].any()
        torch.testing.assert_close(last[row], hidden[-directions:, 0].reshape(-1))


def test_resampling_is_a_literal_interpolation() -> None:
    values, steps = block(), torch.tensor([3, 4, 2, 7])
    found = resampled(values, LENGTHS, steps)
    assert found.shape == (4, 7, 3)
    for row, (length, count) in enumerate(zip(LENGTHS.tolist(), steps.tolist(), strict=True)):
        assert not found[row, count:].any()
        for step in range(count):
            if not length:
                assert not found[row, step].any()
                continue
            place = min(max((step + 0.5) * length / count - 0.5, 0.0), length - 1.0)
            low = int(place)
            high = min(low + 1, length - 1)
            expected = (1 - (place - low)) * values[row, low] + (place - low) * values[row, high]
            torch.testing.assert_close(found[row, step], expected)


def test_resampling_agrees_with_torch_and_leaves_equal_lengths_alone() -> None:
    values = block()[:1, :5]
    for count in (2, 5, 9):
        found = resampled(values, torch.tensor([5]), torch.tensor([count]))
        expected = functional.interpolate(values.transpose(1, 2), size=count, mode="linear").transpose(1, 2)
        torch.testing.assert_close(found, expected)
    assert torch.equal(resampled(values, torch.tensor([5]), torch.tensor([5])), values)
