"""Several policies, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import MinLen
from torch import Tensor

from mosear.settings import settings
from mosear.steering.policies.base import AttentionView, Edit, Policy, modality_mass
from mosear.steering.policies.chase import Chase


@settings
@dataclass(frozen=True)
class Policies(Policy):
    """Each policy edits what the one before has left: ``p -> p' -> p''``.

    Attributes:
        policies: in order; at most one :class:`Chase` among them.
    """

    policies: Annotated[Sequence[Policy], MinLen(1), "to steer nothing, leave steering off"]

    def further_problems(self) -> list[str]:
        """More than one direction per clip."""
        if sum(isinstance(step, Chase) for step in self.steps) > 1:
            return ["there may be one Chase, for a session decides on one direction per clip"]
        return []

    @property
    def steps(self) -> tuple[Policy, ...]:
        """All of them, flat."""
        return tuple(step for policy in self.policies for step in policy.steps)

    def problems(self, layers: int, heads: int) -> list[str]:
        """Those of each."""
        return [problem for step in self.steps for problem in step.problems(layers, heads)]

    def acts_in(self, layer: int) -> bool:
        """If any does."""
        return any(step.acts_in(layer) for step in self.steps)

    def idle(self, state: Tensor | None) -> bool:
        """If all are."""
        return all(step.idle(state) for step in self.steps)

    def apply(self, probabilities: Tensor, view: AttentionView) -> Edit:
        """``view.state`` goes to the :class:`Chase` among them, the only one that has a state."""
        edited, touched = probabilities, None
        for step in self.steps:
            mass = view.mass if touched is None else modality_mass(edited, view.keys)
            edited, own = step.edit(edited, replace(view, mass=mass))
            touched = own if touched is None else touched | own
        assert touched is not None
        return edited, touched
