"""What calibration tries for attention reallocation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import ClassVar

from mosear.steering.calibration.policy_search import Move, PolicySearch, step_of, with_step
from mosear.steering.calibration.search import Search, Trial
from mosear.steering.policies.base import Policy
from mosear.steering.policies.reallocation import AttentionReallocation

THRESHOLDS = (0.3, 0.5, 0.7)
PORTIONS = (0.2, 0.4, 0.6, 0.8)
STEPS = (0.1, 0.05)
"""How far threshold and portion are moved from the best of the grid, one after the other."""
MILDER = (0.25, 0.5, 0.75, 1.0)
"""Of the best portion, where another policy acts on what is left."""


class ReallocationSearch(PolicySearch):
    """See :func:`search_reallocation`."""

    off: ClassVar[Policy] = AttentionReallocation(portion=0.0)
    dose: ClassVar[str] = "portion"

    def alone(self) -> Trial:
        """Grid, then steps."""
        return search_reallocation(self.stages.search)

    def milder(self, policy: Policy) -> Sequence[Policy]:
        """Smaller portions."""
        own = step_of(policy, AttentionReallocation)
        portions = sorted({round(min(1.0, factor * own.portion), 3) for factor in MILDER})
        return [replace(own, portion=portion) for portion in portions]

    def moves(self) -> Sequence[Move]:
        """Those from the best of the grid."""
        return reallocation_moves()


def search_reallocation(search: Search) -> Trial:
    """Coarse grid for each criterion, the other distribution, then steps around the best."""
    grid: list[Policy] = [
        replace(start, threshold=threshold, portion=portion)
        for start in (AttentionReallocation(criterion="mass"), AttentionReallocation(criterion="density"))
        for threshold, portion in product(THRESHOLDS, PORTIONS)
    ]
    return search.climb("ar: steps", search.run("ar: grid", grid), reallocation_moves())


def reallocation_moves() -> list[Move]:
    """The other distribution, then large and small steps of threshold and portion."""
    return [_distributions, *(_around(step) for step in STEPS)]


def _distributions(policy: Policy) -> Iterator[Policy]:
    for name in ("proportional", "uniform"):
        yield with_step(policy, AttentionReallocation, distribution=name)


def _around(step: float) -> Move:
    def move(policy: Policy) -> Iterator[Policy]:
        own = step_of(policy, AttentionReallocation)
        for up, more in product((-step, 0.0, step), repeat=2):
            threshold, portion = round(own.threshold + up, 3), round(own.portion + more, 3)
            if 0 <= threshold < 1 and 0 < portion <= 1:
                yield with_step(policy, AttentionReallocation, threshold=threshold, portion=portion)

    return move
