"""The control to beat: the strongest control of a system on conflicts, and whether the system beats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mosear.evaluation import bootstrap
from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report.text import in_words, points
from mosear.evaluation.summary import CONFLICT_MEAN, CONFLICT_SUBSETS, by_subset, control_correctness

CONTROL_NAMES = {"late_fusion": "late fusion", "late_fusion_transcript": "late fusion + transcript"}


@dataclass(frozen=True, kw_only=True)
class ControlToBeat:
    """A system and its strongest control, on the conflict mean.

    Attributes:
        system: name of the system.
        control: name of the control.
        score: the control's conflict mean with its interval.
        difference: system minus control on the same clips.
    """

    system: str
    control: str
    score: Interval
    difference: Interval

    @property
    def css(self) -> str:
        """Class of the verdict's colour."""
        return "better" if self.difference.low > 0 else "worse" if self.difference.high < 0 else "unclear"

    @property
    def verdict(self) -> str:
        """The verdict in a few words; the paired interval alone decides."""
        system = in_words(self.system)
        return {
            "better": f"{system} beats it",
            "worse": f"{system} does not beat it",
            "unclear": f"undecided whether {system} beats it",
        }[self.css]

    @property
    def sentence(self) -> str:
        """The verdict as a sentence with its numbers."""
        mean, low, high = map(points, self.difference)
        change = f"({mean} points, 95 % interval {low} to {high})"
        system, control = in_words(self.system), CONTROL_NAMES[self.control]
        if self.css == "unclear":
            return f"On conflicts, it is undecided whether {system} beats {control}, the strongest control {change}."
        verb = "beats" if self.css == "better" else "does not beat"
        return f"On conflicts, {system} {verb} {control}, the strongest control {change}."


def control_to_beat(
    system: str, summary: Mapping[str, Any], rows: Sequence[PredictionRow], labels: Sequence[str]
) -> ControlToBeat | None:
    """The control with the highest conflict mean, or None without controls or without both conflict subsets.

    Args:
        system: name of the system.
        summary: of :func:`mosear.evaluation.summary.summarise`.
        rows: the system's predictions behind the summary.
        labels: the label list.
    """
    scored = {name: values[CONFLICT_MEAN] for name, values in summary["controls"].items() if CONFLICT_MEAN in values}
    if not scored:
        return None
    control = max(scored, key=lambda name: scored[name])
    groups = {subset: own for subset, own in by_subset(rows).items() if subset in CONFLICT_SUBSETS}
    answered = {subset: [row.credit for row in own] for subset, own in groups.items()}
    difference = bootstrap.paired_difference(
        answered, control_correctness(groups, labels)[control], bootstrap.conflict_mean_statistic
    )
    low, high = summary["control_intervals"][control][CONFLICT_MEAN]
    score = Interval(scored[control], low, high)
    return ControlToBeat(system=system, control=control, score=score, difference=difference)
