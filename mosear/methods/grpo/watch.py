"""What happens to rewards, completions and policy over a run; reward hacking is named by a warning.

A step's figures are kept as sums over all processes and micro-batches, so that means of steps and of windows are exact.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mosear.evaluation.report import LineChart
from mosear.methods.processes import total

log = logging.getLogger(__name__)

WINDOW = 20
"""Steps that a warning compares."""
LONGER, TAGS, ONE_LABEL, ONE_LABEL_GOLD, ALIKE, BETTER = 1.5, 0.2, 0.9, 0.6, 0.9, 0.02

TAG_NAMES = ("<think>", "</think>", "<answer>", "</answer>")


def repeats_a_tag(text: str) -> bool:
    """Does a tag stand in it more than once?"""
    return any(text.count(tag) > 1 for tag in TAG_NAMES)


def summed(sums: Mapping[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """The same sums over all processes, which must give the same names."""
    values = [torch.as_tensor(sums[name], dtype=torch.float32, device=device).detach() for name in sums]
    return dict(zip(sums, total(torch.stack(values)).double().tolist(), strict=True))


def ratio(sums: Mapping[str, float], over: str, under: str) -> float | None:
    """A mean; ``None`` of nothing, and of what was not counted."""
    return sums[over] / sums[under] if over in sums and sums.get(under) else None


class Watch:
    """Collects sums by step.

    Attributes:
        steps: their numbers.
        sums: theirs.
        warned: names of the warnings so far; each comes once in a run.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.steps: list[int] = []
        self.sums: list[dict[str, float]] = []
        self.warned: list[str] = []
        if state is not None:
            rows = state["sums"].tolist()
            self.steps, self.warned = list(state["steps"]), list(state["warned"])
            self.sums = [dict(zip(state["names"], row, strict=True)) for row in rows]

    def state_dict(self) -> dict[str, Any]:
        """Plain values and a tensor."""
        names = list(dict.fromkeys(name for row in self.sums for name in row))
        rows = [[row.get(name, 0.0) for name in names] for row in self.sums]
        sums = torch.tensor(rows, dtype=torch.float64).view(len(rows), len(names))
        return {"steps": list(self.steps), "names": names, "sums": sums, "warned": list(self.warned)}

    def add(self, step: int, sums: Mapping[str, float]) -> None:
        """Sums of a micro-batch. With the first one of a new step, the steps before it are judged."""
        if not self.steps or self.steps[-1] != step:
            self._warn()
            self.steps.append(step)
            self.sums.append({})
        row = self.sums[-1]
        for name, value in sums.items():
            row[name] = row.get(name, 0.0) + value

    def mean(self, rows: Sequence[Mapping[str, float]], over: str, under: str) -> float | None:
        """A ratio of sums over several steps."""
        of = sum(row.get(under, 0.0) for row in rows)
        return sum(row.get(over, 0.0) for row in rows) / of if of else None

    # -- warnings ------------------------------------------------------------------------------------------------------

    def _warn(self) -> None:
        for name, message in self.findings():
            if name not in self.warned:
                self.warned.append(name)
                log.warning("Step %d, %s: %s", self.steps[-1], name, message)

    def findings(self) -> Iterator[tuple[str, str]]:
        """Signs of reward hacking in the last :data:`WINDOW` steps, by name."""
        drawn = [row for row in self.sums if row.get("completions")]
        if len(drawn) < WINDOW:
            return
        first, last = drawn[:WINDOW], drawn[-WINDOW:]
        yield from self._length(first, last) if len(drawn) >= 2 * WINDOW else ()
        repeated = self.mean(last, "repeated", "completions") or 0.0
        if repeated > TAGS:
            message = f"{repeated:.0%} of the completions write a tag more than once."
            yield "repeated_tags", f"{message} Give format_reward, which wants each tag once, a weight."
        yield from self._one_label(last)
        alike = self.mean(last, "no_variance", "groups") or 0.0
        if alike > ALIKE:
            message = f"{alike:.0%} of the groups have equal rewards, which teach nothing."
            remedy = "Raise temperature or group_size, or use rewards that tell the completions apart."
            yield "no_variance", f"{message} {remedy}"

    def _length(self, first: Sequence[Mapping[str, float]], last: Sequence[Mapping[str, float]]) -> Iterator[Any]:
        before, now = (self.mean(rows, "length", "completions") for rows in (first, last))
        right = [self.mean(rows, "right", "labelled") or 0.0 for rows in (first, last)]
        if before and now and now > LONGER * before and right[1] < right[0] + BETTER:
            message = f"completions have grown from {before:.1f} to {now:.1f} tokens, but no more of them are right"
            remedy = "Use loss_type=dr_grpo or dapo, or length_reward."
            yield "length", f"{message} ({right[0]:.0%}, now {right[1]:.0%}). {remedy}"

    def _one_label(self, last: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, str]]:
        said = {
            name.removeprefix("said/"): self.mean(last, name, "parsed") or 0.0
            for name in last[-1]
            if name.startswith("said/")
        }
        label = max(said, key=said.__getitem__, default=None)
        if label is None or said[label] <= ONE_LABEL:
            return
        gold = self.mean(last, f"gold/{label}", "labelled") or 0.0
        if gold < ONE_LABEL_GOLD:
            message = f"{said[label]:.0%} of the answers are {label!r}, which {gold:.0%} of the clips are."
            remedy = "Raise beta, lower the learning rate, or look for a reward that pays for this label."
            yield "one_label", f"{message} {remedy}"

    # -- results -------------------------------------------------------------------------------------------------------

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What a log says about sums: means, by name."""
        pairs = {
            "reward": ("reward", "rewarded"), "length": ("length", "completions"), "parsed": ("parsed", "completions"),
            "right": ("right", "labelled"), "truncated": ("truncated", "completions"),
            "repeated_tags": ("repeated", "completions"), "zero_variance": ("no_variance", "groups"),
            "kl": ("kl", "tokens"), "entropy": ("entropy", "tokens"), "clipped": ("clipped", "ratios"),
            "rollout_gap": ("gap", "told"), "masked_kl": ("masked_kl", "thoughts"),
            "dropped": ("dropped", "groups"),
        }  # fmt: skip
        pairs |= {n: (n, f"n/{n}") for n in sums if n.startswith("reward/")}
        found = {name: ratio(sums, *pair) for name, pair in pairs.items()}
        return {name: value for name, value in found.items() if value is not None}

    def summary(self) -> dict[str, Any]:
        """Means over the first and the last steps, and which warnings there were."""
        if not self.sums:
            return {}
        ends = {"first": self.sums[:WINDOW], "last": self.sums[-WINDOW:]}
        means = {name: self.figures(_added(rows)) for name, rows in ends.items()}
        return {"steps": len(self.steps), **means, "warnings": list(self.warned)}

    def charts(self) -> list[LineChart]:
        """Curves of everything, for the report."""
        curves: dict[str, list[tuple[float, float]]] = {}
        for step, row in zip(self.steps, self.sums, strict=True):
            for name, value in self.figures(row).items():
                curves.setdefault(name, []).append((float(step), value))
        rewards = {name: curve for name, curve in curves.items() if name.startswith("reward")}
        shares = ("right", "parsed", "truncated", "zero_variance", "repeated_tags", "clipped")
        groups: dict[str, Mapping[str, Sequence[tuple[float, float]]]] = {
            "Rewards": rewards,
            "Completion length (tokens)": {name: curves[name] for name in ("length",) if name in curves},
            "Shares of completions and groups": {name: curves[name] for name in shares if name in curves},
            "KL and entropy per token (nats)": {name: curves[name] for name in ("kl", "entropy") if name in curves},
        }
        caption = "Means over all completions of a step. Right: the answer is the clip's label."
        return [LineChart(title=title, series=own, caption=caption) for title, own in groups.items() if own]


def _added(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            found[name] = found.get(name, 0.0) + value
    return found
