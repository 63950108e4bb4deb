"""What the calibration of a policy consists of, and how those of two policies are joined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mosear.steering.calibration import searches
from mosear.steering.calibration.search import Search, Trial
from mosear.steering.calibration.searches import searchable
from mosear.steering.policies.base import Policy
from mosear.steering.policies.sequence import Policies

if TYPE_CHECKING:
    from mosear.steering.calibration.stages import Stages

P = TypeVar("P", bound=Policy)
Move = Callable[[Policy], Iterable[Policy]]
"""Neighbours of a policy."""

MOST = 2
"""Policies that one calibration joins."""


class PolicySearch(ABC):
    """Searches the settings of one policy.

    A subclass in ``mosear/steering/calibration/searches/KEY.py`` is found by the key of its policy.

    Args:
        stages: of this calibration; they hold the search, the passes and the clips.

    Attributes:
        off: the policy with settings that change nothing. Stands in the file where the policy was not chosen.
        dose: what :meth:`milder` varies, for the name of a stage.
    """

    off: ClassVar[Policy]
    dose: ClassVar[str]

    def __init__(self, stages: Stages) -> None:
        self.stages = stages

    @abstractmethod
    def alone(self) -> Trial:
        """Search the policy by itself; the best trial."""

    @abstractmethod
    def milder(self, policy: Policy) -> Sequence[Policy]:
        """Weaker versions of a policy that was found, and itself: another policy then acts on what it leaves."""

    @abstractmethod
    def moves(self) -> Sequence[Move]:
        """What is varied last, once another policy acts before this one; the policies moved hold both."""

    def notes_about(self, chosen: Policy) -> dict[str, Any]:
        """What is worth noting, beside the trials, about a choice in which this policy is on."""
        return {}


def search_of(key: str) -> type[PolicySearch]:
    """The search for a policy.

    Raises:
        ValueError: naming the policies that have one.
    """
    if key not in searchable():
        raise ValueError(unsearchable(key))
    module = import_module(f"{searches.__name__}.{key}")
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    found = [value for value in own if issubclass(value, PolicySearch) and value.off.key == key]
    if len(found) != 1:
        raise ValueError(
            f"{module.__name__} must define one PolicySearch whose `off` is a {key!r}; it has {len(found)}."
        )
    return found[0]


def keys_of(wanted: str) -> list[str]:
    """Policies that ``KEY`` or ``KEY_KEY`` names, in the order of application.

    Raises:
        ValueError: if there is no search for one of them, or they cannot be joined.
    """
    keys = wanted.split("_")
    if missing := [key for key in keys if key not in searchable()]:
        raise ValueError(unsearchable(*missing))
    if len(set(keys)) < len(keys) or len(keys) > MOST:
        raise ValueError("calibration takes one policy, or two different ones as KEY_KEY")
    return keys


def unsearchable(*keys: str) -> str:
    """Says so, and which policies have a search."""
    return (
        f"no calibration search for {' or '.join(map(repr, keys))}; there are searches for {', '.join(searchable())}, "
        "and two of these are joined as KEY_KEY. Others are set by hand, in the config"
    )


def join(search: Search, first: PolicySearch, second: PolicySearch, found: Sequence[Trial]) -> Trial:
    """The second policy on what the first leaves: milder versions of the first, then moves of the second.

    Args:
        search: where trials go.
        first: search of the policy that acts first.
        second: of the other one.
        found: the best trial of each.
    """
    best = [trial.policy for trial in found]
    assert best[0] is not None and best[1] is not None
    name = f"{first.off.key}_{second.off.key}"
    pairs = [Policies((milder, best[1])) for milder in first.milder(best[0])]
    return search.climb(f"{name}: settings", search.run(f"{name}: {first.dose}", pairs), second.moves(), rounds=1)


def with_step(policy: Policy, kind: type[Policy], **changes: Any) -> Policy:
    """The policy with other settings of its step of one kind."""
    steps = [replace(step, **changes) if isinstance(step, kind) else step for step in policy.steps]  # type: ignore[type-var]
    return steps[0] if len(steps) == 1 else Policies(steps)


def step_of(policy: Policy, kind: type[P]) -> P:
    """The step of one kind of a policy that has one."""
    return next(step for step in policy.steps if isinstance(step, kind))
