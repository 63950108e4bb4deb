"""The first card of a comparison, per benchmark: which systems are better, by how much, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.compare.collect import CONTROLS, System
from mosear.evaluation.kinds import SCORINGS
from mosear.evaluation.report import svg
from mosear.evaluation.report.scale import SMALLEST_AXIS, around_zero
from mosear.evaluation.report.text import in_words, points
from mosear.evaluation.report.verdict import FEW, NO_CONTROL, NO_SUCH_CONTROL, Fact, read_answers
from mosear.evaluation.summary import CONFLICT_MEAN

if TYPE_CHECKING:
    from mosear.evaluation.compare.scores import Difference
    from mosear.evaluation.report.compare_page import Scored

WORDS = {1: ("better", "better"), -1: ("worse", "worse"), 0: ("unclear", "not clear")}
_CONTROL_WORDS = {"better": "beats", "worse": "does not beat", "unclear": "undecided against"}


def topic(keys: Sequence[str]) -> str | None:
    """The question of the headline: conflicts, or else the first that was asked."""
    return CONFLICT_MEAN if CONFLICT_MEAN in keys else next(iter(keys), None)


def verdict_card(one: Scored) -> dict[str, Any]:
    """What the card shows."""
    key = topic([d.key for d in one.differences])
    asked = [d for d in one.differences if d.key == key]
    where = "conflicts" if key == CONFLICT_MEAN else f"{in_words(key or '')} clips"
    css, headline = _headline(asked, in_words(one.reference), where)
    scale = around_zero(max((abs(bound) for d in asked for bound in d.interval), default=0.0) or SMALLEST_AXIS)
    return {
        "css": css,
        "headline": headline,
        "where": where,
        "rows": [_row(d, scale, one.against_controls) for d in asked],
        "axis": svg.points_axis(scale),
        "facts": _facts(one),
    }


def _headline(asked: Sequence[Difference], reference: str, where: str) -> tuple[str, str]:
    if not asked:
        return "unclear", f"Nothing to compare with {reference}"
    groups: dict[int, list[Difference]] = {}
    for d in asked:
        groups.setdefault(d.gain, []).append(d)
    if not groups.keys() - {0}:
        return "unclear", f"No clear difference from {reference} on {where} ({_count(len(asked), 'system')})"
    told = []
    for gain in (1, -1):
        if own := groups.get(gain):
            names = ", ".join(f"{in_words(d.system)} ({_numbers(d.interval)})" for d in own)
            told.append(f"{WORDS[gain][1]} than {reference} on {where}: {names if len(own) <= 3 else len(own)}")
    line = "; ".join(told) + (f"; not clear: {len(groups[0])}" if 0 in groups else "")
    return "better" if 1 in groups else "worse", f"{line[:1].upper()}{line[1:]}"


def _numbers(difference: Interval) -> str:
    mean, low, high = map(points, difference)
    return f"{mean} points [{low}, {high}]"


def _row(d: Difference, scale: Any, against: Mapping[str, tuple[str, Interval]]) -> dict[str, Any]:
    css, words = WORDS[d.gain]
    mean, low, high = map(points, d.interval)
    label = f"{in_words(d.system)}: {mean} points, 95 % interval {low} to {high}, {words}"
    row: dict[str, Any] = {"name": d.system, "interval": d.interval, "css": css, "words": words, "control": None}
    if d.system in against:
        control, difference = against[d.system]
        own = "better" if difference.low > 0 else "worse" if difference.high < 0 else "unclear"
        row["control"] = (own, f"{_CONTROL_WORDS[own]} its {CONTROLS[control]} ({points(difference.mean)})")
    return row | {"mark": svg.difference_mark(*d.interval, scale=scale, css=css, label=label)}


def _facts(one: Scored) -> list[Fact]:
    systems = [system for system in one.benchmark.systems.values() if not system.control]
    rows = [row for system in systems for run in system.runs for row in run.rows.values()]
    sizes = list(map(len, one.benchmark.subsets.values()))
    few = min(sizes) < FEW
    facts = [
        Fact(
            "unclear" if few else "better",
            f"{_count(sum(sizes), 'clip')}, {'only' if few else 'at least'} {min(sizes):,} in "
            f"{'the smallest' if few else 'each'} of {_count(len(sizes), 'subset')}"
            f"{': intervals are rough' if few else ''}.",
        ),
        _seeds(systems),
    ]
    quarantined = sum(row.quarantined for row in rows)
    unread = sum(row.prediction is None for row in rows) - quarantined
    asked = len(rows) - quarantined
    facts.append(read_answers(unread, asked, of=" of all runs"))
    if quarantined:
        told = f"{quarantined:,} of {len(rows):,} answers are missing because a clip could not be used (quarantined)."
        facts.append(Fact("worse", told))
    beaten = sum(difference.low > 0 for _, difference in one.against_controls.values())
    if one.against_controls:
        told = f"{beaten} of {_count(len(one.against_controls), 'system')} beat the strongest control made of their own"
        facts.append(Fact("better" if beaten else "worse", f"{told} unimodal readings (not corrected for number)."))
    else:
        facts.append(NO_CONTROL if SCORINGS[one.benchmark.kind].controls else NO_SUCH_CONTROL)
    return facts


def _seeds(systems: Sequence[System]) -> Fact:
    """Bare backbones have no training seed."""
    seeds = [len(own) for s in systems if any(run.tuned for run in s.runs) for own in s.hits.values()]
    if not seeds:
        return Fact("better", "No system was trained: there are no seeds.")
    if min(seeds) == 1:
        return Fact("unclear", "Some trained systems have one seed only: another training run may differ.")
    least = "" if min(seeds) == max(seeds) else "at least "
    return Fact("better", f"{least}{min(seeds)} seeds per trained system and backbone.".capitalize())


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
