"""Scales of the plots: every tick is a multiple of 1, 2 or 5 times a power of ten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS_PER_SIDE = 3
_STEPS = 5


@dataclass(frozen=True)
class Scale:
    """An axis from its first to its last tick.

    Attributes:
        ticks: ascending, at least two.
    """

    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Where a value lies: 0 at the first tick, 1 at the last."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])

    @property
    def places(self) -> list[float]:
        """Where the ticks lie."""
        return [self.at(tick) for tick in self.ticks]


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10 times a power of ten that is at least ``least``; 1 if that is not positive."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def _multiples(step: float, low: float, high: float) -> Scale:
    """Multiples of a step that enclose an interval, at least two."""
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(tuple(i * step for i in range(first, max(last, first + 1) + 1)))


def around_zero(largest: float) -> Scale:
    """A scale with zero in its middle that reaches ``largest`` on both sides, in at most three steps each."""
    step = nice_step(largest / _STEPS_PER_SIDE)
    reach = max(1, math.ceil(largest / step - 1e-9)) * step
    return _multiples(step, -reach, reach)


def from_zero(largest: float) -> Scale:
    """A scale from zero that reaches ``largest`` in at most five steps."""
    return _multiples(nice_step(largest / _STEPS), 0.0, max(largest, 0.0))


def enclosing(values: Sequence[float]) -> Scale:
    """A scale around values; where they are all equal, half a unit is left on either side."""
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    return _multiples(nice_step((high - low) / _STEPS), low, high)


SHARES = from_zero(1.0)
SMALLEST_AXIS = 0.01  # where every difference is exactly 0
