"""What the report shows of modality contribution: a bar of shares per subset and system, and the values behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mosear.evaluation.contribution import COLLAPSED, NOT_COLLAPSED, UNDECIDED
from mosear.evaluation.report import svg
from mosear.roles import SHOWN

NAMES = {"visual": "video", "audio": "audio", "text": "text"}
WORTH_NAMES = {"accuracy": "accuracy", "log_prob": "log-probability"}
_VERDICTS = {
    COLLAPSED: ("worse", "collapsed"),
    NOT_COLLAPSED: ("better", "not collapsed"),
    UNDECIDED: ("unclear", "undecided"),
}
_SCALE = {"accuracy": (100.0, 1), "log_prob": (1.0, 2)}  # factor, digits
_ABSENT = ("unclear", "no video")


def contribution_section(summaries: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any] | None:
    """The section's content, or None where no system was measured.

    Args:
        summaries: ``{system: summary}``; a measured one has ``summarise_contribution(...)`` under ``contribution``.
        names: the systems in the order of the page.
    """
    measured = {name: summaries[name]["contribution"] for name in names if "contribution" in summaries[name]}
    if not measured:
        return None
    subsets = dict.fromkeys(subset for summary in measured.values() for subset in summary["subsets"])
    threshold = next(iter(measured.values()))["collapse_threshold"]
    groups = []
    for subset in subsets:
        own = {name: summary["subsets"][subset] for name, summary in measured.items() if subset in summary["subsets"]}
        groups.append(
            {
                "subset": subset,
                "n": next(iter(own.values()))["n"],
                "bars": [_bar(subset, name, scores["log_prob"], threshold) for name, scores in own.items()],
                "rows": [
                    {"name": name, "worth": WORTH_NAMES[worth], **_row(scores[worth], *_SCALE[worth])}
                    for name, scores in own.items()
                    for worth in WORTH_NAMES
                ],
            }
        )
    return {"threshold": threshold, "modalities": NAMES, "groups": groups}


def _bar(subset: str, name: str, scores: Mapping[str, Any], threshold: float) -> dict[str, Any]:
    css, words = _VERDICTS[scores["verdict"]] if scores["verdict"] else _ABSENT
    shares, interval = scores["shares"], scores["share_interval"]
    moving = math.isfinite(shares["visual"])
    spoken = ", ".join(f"{NAMES[key]} {100 * shares[key]:.1f} %" for key in SHOWN) if moving else "nothing moves"
    return {
        "name": name,
        "css": css,
        "words": words,
        "share": shares["visual"] if moving and interval else None,
        "interval": interval if moving else None,
        "plot": svg.share_bar(
            [(f"m-{key}", shares[key]) for key in SHOWN] if moving else [],
            interval if moving else None,
            mark=threshold,
            label=f"{subset}, {name}: {spoken}; {words}",
        ),
    }


def _row(scores: Mapping[str, Any], factor: float, digits: int) -> dict[str, Any]:
    def number(value: float, sign: str = "") -> str:
        return f"{factor * value:{sign}.{digits}f}".replace("-", "−")

    values = []
    for key in SHOWN:
        low, high = scores["interval"][key]
        values.append((number(scores["shapley"][key], "+"), f"[{number(low, '+')}, {number(high, '+')}]"))
    css, words = _VERDICTS[scores["verdict"]] if scores["verdict"] else _ABSENT
    share, interval = scores["shares"]["visual"], scores["share_interval"]
    shown = interval is not None and math.isfinite(share)
    return {
        "none": number(scores["none"]),
        "all": number(scores["all"]),
        "values": values,
        "share": f"{100 * share:.1f}" if shown else "–",
        "bounds": f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if shown else "",
        "css": css,
        "words": words,
    }
