"""A few completions of a run with what they were worth, for people: a table for W&B and a file of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mosear.evaluation.report import Table

if TYPE_CHECKING:
    from mosear.methods.grpo.experience import Group

PER_STEP = 4
"""Completions of the first prompt that are kept."""
MOST_STEPS = 128
"""Where there are more, every second one of those that are kept goes."""
LONGEST = 2000
"""Characters of a completion."""
NAME = "completions"


class Shown:
    """Completions by step, evenly spread over the run.

    Attributes:
        every: steps between those that are kept.
        rows: one per completion, by column.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.every: int = 1 if state is None else state["every"]
        self.rows: list[dict[str, Any]] = [] if state is None else [dict(row) for row in state["rows"]]

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"every": self.every, "rows": [dict(row) for row in self.rows]}

    def add(self, step: int, group: Group) -> list[dict[str, Any]]:
        """The first completions of a group, if the step is one that is kept and has none yet; returns the new rows."""
        if step % self.every or (self.rows and self.rows[-1]["step"] >= step):
            return []
        rewards = {name: values.tolist() for name, values in group.scored.by_name.items()}
        totals = group.scored.total.tolist()
        new = [
            {
                "step": step, "clip": group.clip.id, "label": group.clip.label, "read": group.parsed[index],
                "reward": _known(totals[index]),
                **{f"reward/{name}": _known(values[index]) for name, values in rewards.items()},
                "completion": text if len(text) <= LONGEST else f"{text[:LONGEST]}...",
            }
            for index, text in enumerate(group.texts[:PER_STEP])
        ]  # fmt: skip
        self.rows += new
        while len({row["step"] for row in self.rows}) > MOST_STEPS:
            self.every *= 2
            self.rows = [row for row in self.rows if row["step"] % self.every == 0]
        return new

    def tables(self, rows: Sequence[Mapping[str, Any]] | None = None) -> list[Table]:
        """All rows, or these, as a table; nothing of nothing."""
        own = self.rows if rows is None else rows
        if not own:
            return []
        names = [name for name in own[0] if name != "completion"]
        columns = [*names, "completion"]
        return [Table(NAME, columns, [[row.get(name) for name in columns] for row in own])]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
