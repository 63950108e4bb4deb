"""What a run report says first: did it get better, where, by how much, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.kinds import SCORINGS, Scoring
from mosear.evaluation.predictions import LABEL
from mosear.evaluation.report.control import CONTROL_NAMES, ControlToBeat
from mosear.evaluation.report.text import BASELINE, in_words, percent, points
from mosear.evaluation.summary import CONFLICT_MEAN, GAP

FEW = 30  # clips; below, a percentile interval of a share is rough
_COMPARED = {"better": "better than", "worse": "worse than", "unclear": "no clear difference from"}
_VERBS = {"better": "is better than", "worse": "is worse than", "unclear": "is not clearly different from"}
_WORDS = {"better": "better", "worse": "worse", "unclear": "no clear change"}


@dataclass(frozen=True)
class Fact:
    """One reason to trust the numbers, or not to.

    Attributes:
        css: ``better`` (nothing to worry about), ``unclear`` (mind it) or ``worse``.
        sentence: the reason.
    """

    css: str
    sentence: str


NO_CONTROL = Fact("unclear", "No control was measured (answering.readings=true reads each modality alone).")
NO_SUCH_CONTROL = Fact("unclear", "There is no control: late fusion of readings chooses between single labels.")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The top of the page.

    Attributes:
        css: colour of the headline: ``better`` only if nothing that it names is worse or undecided.
        headline: the verdict in one line.
        sentences: the same with numbers, and where.
        facts: how far to trust it.
    """

    css: str
    headline: str
    sentences: Sequence[str]
    facts: Sequence[Fact]


def direction(key: str, difference: Interval) -> tuple[str, str]:
    """(css class, words) for a difference; a smaller gap is the better one."""
    sign = -1 if key == GAP else 1
    low, high = sorted((sign * difference.low, sign * difference.high))
    css = "better" if low > 0 else "worse" if high < 0 else "unclear"
    return css, _WORDS[css]


def verdict(
    baseline: str,
    candidate: str,
    differences: Mapping[str, Interval],
    lead: Mapping[str, Any],
    control: ControlToBeat | None,
) -> Verdict:
    """Claims follow from intervals alone.

    Args:
        baseline: name of the system that the candidate is compared with.
        candidate: name of the system that the report is about.
        differences: candidate minus baseline per question; empty where they are the same.
        lead: the candidate's summary.
        control: its strongest control, if any was measured.
    """
    key, scoring = _topic(lead), _scoring(lead)
    where = "conflicts" if key == CONFLICT_MEAN else f"{in_words(key)} clips"
    found, sentences = [], []
    if key in differences:
        css = direction(key, differences[key])[0]
        found.append((css, in_words(baseline)))
        sentences.append(
            f"On {where}, {in_words(candidate)} {_VERBS[css]} {in_words(baseline)} ({_change(differences[key])})."
        )
    else:
        value, (low, high) = _score(lead, key)
        verb, what = scoring.right
        sentences.append(
            f"On {where}, {in_words(candidate)} {verb} {percent(value)} % {what} "
            f"(95 % interval {percent(low)} to {percent(high)})."
        )
    if own := scoring.headline():
        subset = reference_subset(lead)
        told = (f"{n.heading} {n.text(lead['subsets'][subset][n.key])}{' %' if n.share else ''}" for n in own)
        sentences.append(f"On {in_words(subset)} clips, {in_words(candidate)} has {', '.join(told)}.")
    if control is not None:
        found.append((control.css, f"{CONTROL_NAMES[control.control]}, the strongest control"))
        sentences.append(control.sentence)
    if differences:
        sentences.append(_by_subset(differences))
    return Verdict(
        css=_worst([css for css, _ in found]),
        headline=_headline(found) if found else f"{percent(_score(lead, key)[0])} % {scoring.right[1]} on {where}",
        sentences=sentences,
        facts=[*_facts(candidate, lead), _control_fact(control, lead)],
    )


def _scoring(lead: Mapping[str, Any]) -> Scoring:
    return SCORINGS[lead.get("kind", LABEL)]


def _topic(lead: Mapping[str, Any]) -> str:
    """The question of the headline: conflicts, or else the consistent or the first subset."""
    if lead[CONFLICT_MEAN] is not None:
        return CONFLICT_MEAN
    return reference_subset(lead)


def reference_subset(lead: Mapping[str, Any]) -> str:
    """The consistent or else the first subset."""
    return "consistent" if "consistent" in lead["subsets"] else next(iter(lead["subsets"]))


def _score(lead: Mapping[str, Any], key: str) -> tuple[float, Sequence[float]]:
    if key == CONFLICT_MEAN:
        return lead[key], lead[f"{key}_interval"]
    return lead["subsets"][key]["accuracy"], lead["subsets"][key]["interval"]


def _change(difference: Interval) -> str:
    mean, low, high = map(points, difference)
    return f"{mean} points, 95 % interval {low} to {high}"


def _worst(classes: Sequence[str]) -> str:
    return next((css for css in ("worse", "unclear") if css in classes), "better" if classes else "unclear")


def _headline(found: Sequence[tuple[str, str]]) -> str:
    """``Better than zero-shot and than late fusion, the strongest control``."""
    (css, first), *rest = found
    line = f"{_COMPARED[css]} {first}"
    for other, name in rest:
        line += f" and {_COMPARED[css].split()[-1]} {name}" if other == css else f", {_COMPARED[other]} {name}"
    return line[:1].upper() + line[1:]


def _by_subset(differences: Mapping[str, Interval]) -> str:
    groups: dict[str, list[str]] = {}
    for key, difference in differences.items():
        if key not in (CONFLICT_MEAN, GAP):
            css, words = direction(key, difference)
            mean, low, high = map(points, difference)
            numbers = f" ({mean} [{low}, {high}])" if css != "unclear" else ""
            groups.setdefault(words, []).append(in_words(key) + numbers)
    told = [f"{words} on {', '.join(groups[words])}" for words in _WORDS.values() if words in groups]
    return f"By subset: {'; '.join(told)}."


def _facts(candidate: str, lead: Mapping[str, Any]) -> list[Fact]:
    sizes = [subset["n"] for subset in lead["subsets"].values()]
    clips, least = sum(sizes), min(sizes)
    unparsed = sum(subset["unparsed"] for subset in lead["subsets"].values())
    quarantined = sum(subset.get("quarantined", 0) for subset in lead["subsets"].values())
    asked = clips - quarantined
    each = "" if len(sizes) == 1 else f", at least {least:,} in each of {len(sizes)} subsets"
    few = f"{clips:,} clips, only {least:,} in the smallest of {len(sizes)} subsets: intervals are rough."
    if len(sizes) == 1:
        few = f"Only {clips:,} clips: intervals are rough."
    facts = [Fact("unclear", few) if least < FEW else Fact("better", f"{clips:,} clips{each}.")]
    if candidate != BASELINE:
        facts.append(
            Fact("unclear", f"One seed ({lead['seed']}): intervals are over clips; another training run may differ.")
        )
    facts.append(read_answers(unparsed, asked))
    if quarantined:
        told = f"{quarantined:,} of {clips:,} clips could not be used (quarantined); they count as wrong."
        facts.append(Fact("worse", told))
    else:
        facts.append(Fact("better", "No test clip was quarantined."))
    return facts


def read_answers(unread: int, asked: int, of: str = "") -> Fact:
    """How many answers could be read; ``of`` says whose."""
    if unread:
        return Fact("unclear", f"{unread:,} of {asked:,} answers{of} could not be read; they count as wrong.")
    return Fact("better", f"All {asked:,} answers{of} could be read.")


def _control_fact(control: ControlToBeat | None, lead: Mapping[str, Any]) -> Fact:
    if control is not None:
        verdict_words = control.verdict.replace(" it", f" {CONTROL_NAMES[control.control]}", 1)
        return Fact(control.css, f"{verdict_words[:1].upper()}{verdict_words[1:]}, the strongest control.")
    if lead["controls"]:
        return Fact("unclear", "Controls stand beside each subset; the run has no conflict subsets to rank them on.")
    return NO_CONTROL if _scoring(lead).controls else NO_SUCH_CONTROL
