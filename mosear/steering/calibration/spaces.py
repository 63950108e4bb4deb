"""What calibration tries: grids to begin with, and moves from there, for each kind of policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from mosear.steering.calibration.search import Search, Trial
from mosear.steering.policies.base import Policy
from mosear.steering.policies.chase import Chase
from mosear.steering.policies.reallocation import AttentionReallocation
from mosear.steering.policies.reliability import Reliability
from mosear.steering.policies.sequence import Policies

Head = tuple[int, int]
Move = Callable[[Policy], Iterable[Policy]]

THRESHOLDS = (0.3, 0.5, 0.7)
PORTIONS = (0.2, 0.4, 0.6, 0.8)
STEPS = (0.1, 0.05)
"""How far AR's threshold and portion are moved from the best of the grid, one after the other."""

STRENGTHS = (0.0, 2.0, 4.0, 8.0)
SUPPRESSIONS = (0.0, 4.0, 8.0, 16.0)
FACTORS = (0.5, 0.7, 1.4, 2.0)
"""By which CHASE's strength and suppression are moved; from 0 they are moved to FIRST."""
FIRST = 1.0
CONFLICTS = tuple(round(0.1 * tenth, 1) for tenth in range(10))
LEANINGS = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
"""How far the priors are moved to the face, in log-odds."""
SHARES = (0.75, 0.5, 0.25, 0.125)
"""Of the ranked heads."""


# -- attention reallocation --------------------------------------------------------------------------------------------


def search_reallocation(search: Search) -> Trial:
    """Coarse grid for each criterion, the other distribution, then steps around the best."""
    grid: list[Policy] = [
        replace(start, threshold=threshold, portion=portion)
        for start in (AttentionReallocation(criterion="mass"), AttentionReallocation(criterion="density"))
        for threshold, portion in product(THRESHOLDS, PORTIONS)
    ]
    best = search.run("ar: grid", grid)
    return search.climb("ar: steps", best, [_distributions, *(_around(step) for step in STEPS)])


def _distributions(policy: Policy) -> Iterator[Policy]:
    assert isinstance(policy, AttentionReallocation)
    yield replace(policy, distribution="proportional")
    yield replace(policy, distribution="uniform")


def _around(step: float) -> Move:
    def move(policy: Policy) -> Iterator[Policy]:
        assert isinstance(policy, AttentionReallocation)
        for up, more in product((-step, 0.0, step), repeat=2):
            threshold, portion = round(policy.threshold + up, 3), round(policy.portion + more, 3)
            if 0 <= threshold < 1 and 0 < portion <= 1:
                yield replace(policy, threshold=threshold, portion=portion)

    return move


# -- CHASE -------------------------------------------------------------------------------------------------------------


def search_chase(search: Search, start: Chase, reliabilities: Sequence[Reliability], *, lean: bool = False) -> Trial:
    """Strengths first, then everything that costs few passes, until nothing improves.

    Args:
        search: where trials go.
        start: its detector, heads and reliability are kept to begin with; every clip that can be steered is.
        reliabilities: estimates to choose from.
        lean: also move their priors. Fitted ones favour no direction, which the objective does not know to keep.
    """
    every = replace(start, conflict_threshold=0.0)
    grid = [
        replace(every, strength=strength, suppress=suppress)
        for strength, suppress in product(STRENGTHS, SUPPRESSIONS)
        if strength or suppress
    ]
    best = search.run("chase: strength", grid)
    return search.climb("chase: settings", best, chase_moves(reliabilities, lean=lean), rounds=2)


def chase_moves(reliabilities: Sequence[Reliability], *, lean: bool) -> list[Move]:
    """Conflict threshold, reliability, soft, leaning and strengths: the first ones need hardly any new pass."""

    def estimates(policy: Policy) -> Iterator[Policy]:
        return (with_chase(policy, reliability=estimate) for estimate in reliabilities)

    leaning = [_leanings] if lean else []
    return [_thresholds, estimates, _softness, *leaning, _strengths, _thresholds]


def search_heads(search: Search, best: Trial, ranked: Sequence[Head]) -> Trial:
    """Shares of the ranked heads instead of all.

    Args:
        search: where trials go.
        best: holds the settings so far.
        ranked: (layer, head), the most useful first.
    """
    assert best.policy is not None
    counts = sorted({max(1, round(share * len(ranked))) for share in SHARES}, reverse=True)
    found = search.run("chase: heads", [with_chase(best.policy, heads=tuple(ranked[:n])) for n in counts], best)
    return search.climb("chase: heads, settings", found, [_strengths, _thresholds], rounds=1)


def search_both(
    search: Search, first: Trial, second: Trial, reliabilities: Sequence[Reliability], *, lean: bool = False
) -> Trial:
    """CHASE on what AR leaves: the best AR at several portions, with the best CHASE, then moves of CHASE.

    Args:
        search: where trials go.
        first: of attention reallocation.
        second: of CHASE.
        reliabilities: estimates to choose from.
        lean: see :func:`search_chase`.
    """
    ar, chase = first.policy, second.policy
    assert isinstance(ar, AttentionReallocation) and isinstance(chase, Chase)
    portions = sorted({round(min(1.0, factor * ar.portion), 3) for factor in (0.25, 0.5, 0.75, 1.0)})
    pairs = [Policies((replace(ar, portion=portion), chase)) for portion in portions]
    best = search.run("ar_chase: portion", pairs)
    return search.climb("ar_chase: settings", best, chase_moves(reliabilities, lean=lean), rounds=1)


def with_chase(policy: Policy, **changes: object) -> Policy:
    """The policy with other settings of its :class:`Chase`."""
    steps = [replace(step, **changes) if isinstance(step, Chase) else step for step in policy.steps]  # type: ignore[arg-type]
    return steps[0] if len(steps) == 1 else Policies(steps)


def chase_of(policy: Policy) -> Chase:
    """The :class:`Chase` of a policy that has one."""
    return next(step for step in policy.steps if isinstance(step, Chase))


def _thresholds(policy: Policy) -> Iterator[Policy]:
    return (with_chase(policy, conflict_threshold=threshold) for threshold in CONFLICTS)


def _softness(policy: Policy) -> Iterator[Policy]:
    return (with_chase(policy, soft=soft) for soft in (False, True))


def _strengths(policy: Policy) -> Iterator[Policy]:
    chase = chase_of(policy)
    for name in ("suppress", "strength"):
        current = getattr(chase, name)
        for value in [factor * current for factor in FACTORS] if current else [FIRST]:
            yield with_chase(policy, **{name: round(value, 3)})


def _leanings(policy: Policy) -> Iterator[Policy]:
    estimate = chase_of(policy).reliability
    assert isinstance(estimate, Reliability)
    for shift in LEANINGS:
        moved = replace(
            estimate, audio_prior=estimate.audio_prior - shift / 2, visual_prior=estimate.visual_prior + shift / 2
        )
        yield with_chase(policy, reliability=moved)
