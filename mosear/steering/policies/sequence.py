"""Several policies, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import MinLen
from torch import Tensor

from mosear.settings import settings
from mosear.steering.policies.base import AttentionView, Edit, Policy, modality_mass
from mosear.steering.policies.detection import Detection


@settings
@dataclass(frozen=True)
class Policies(Policy):
    """Each policy edits what the one before has left: ``p -> p' -> p''``.

    Attributes:
        policies: in order; at most one of them decides about clips (has a :attr:`detection`, as CHASE does).
    """

    policies: Annotated[Sequence[Policy], MinLen(1), "to steer nothing, leave steering off"]

    def further_problems(self) -> list[str]:
        """More than one that decides."""
        deciding = [type(step).__name__ for step in self.steps if step.detection is not None]
        if len(deciding) < 2:
            return []
        return [f"{' and '.join(deciding)} each decide about every clip, but a session makes one decision; use one"]

    @property
    def steps(self) -> tuple[Policy, ...]:
        """All of them, flat."""
        return tuple(step for policy in self.policies for step in policy.steps)

    @property
    def detection(self) -> Detection | None:
        """That of the step that decides."""
        return next((found for step in self.steps if (found := step.detection) is not None), None)

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
        """``view.state`` is about the step that decides; the others do without."""
        edited, touched = probabilities, None
        for step in self.steps:
            mass = view.mass if touched is None else modality_mass(edited, view.keys)
            edited, own = step.edit(edited, replace(view, mass=mass))
            touched = own if touched is None else touched | own
        assert touched is not None
        return edited, touched
