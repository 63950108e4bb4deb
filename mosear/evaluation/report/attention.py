"""What the report shows of steering: attention mass before and after, layer by head, and who disagreed how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report import svg

TARGETS = {"audio": ("m-audio", "steered to the voice"), "visual": ("m-visual", "steered to the face")}
UNSTEERED = ("s0", "left alone")
_BINS = 20
_SHOWN = (("audio", "voice"), ("visual", "face"))


def steering_section(
    summaries: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, Sequence[PredictionRow]],
    names: Sequence[str],
) -> dict[str, Any] | None:
    """The section's content, or None where no system was steered.

    Args:
        summaries: ``{system: summary}``; a steered one has its telemetry under ``steering_telemetry``.
        predictions: ``{system: rows}``.
        names: the systems in the order of the page.
    """
    systems = [
        {"name": name, "maps": _maps(name, telemetry), "clips": telemetry["clips"]}
        for name in names
        if (telemetry := summaries[name].get("steering_telemetry", {})).get("clips")
    ]
    conflicts = [{"name": name, "plots": plots} for name in names if (plots := _histograms(name, predictions[name]))]
    if not systems and not conflicts:
        return None
    return {"systems": systems, "conflicts": conflicts, "legend": [*TARGETS.values(), UNSTEERED]}


def _maps(name: str, telemetry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Voice and face, each before and after on one scale, and the share of rows that were changed."""
    found = []
    for modality, word in _SHOWN:
        index = telemetry["modalities"].index(modality)
        tables = {when: _column(telemetry[when], index) for when in ("before", "after")}
        limit = max(value for table in tables.values() for row in table for value in row) or 1.0
        for when, table in tables.items():
            mean = sum(map(sum, table)) / sum(map(len, table))
            label = f"{name}: attention mass on the {word} by layer and head, {when} steering; mean {100 * mean:.1f} %"
            plot = svg.heat_map(table, css=f"m-{modality}", limit=limit, label=label)
            found.append({"title": f"{word}, {when}", "mean": mean, "plot": plot})
    flagged = telemetry["flagged"]
    mean = sum(map(sum, flagged)) / sum(map(len, flagged))
    label = f"{name}: share of rows that steering changed, by layer and head; mean {100 * mean:.1f} %"
    found.append({"title": "changed", "mean": mean, "plot": svg.heat_map(flagged, css="s3", limit=1.0, label=label)})
    return found


def _column(table: Sequence[Sequence[Sequence[float]]], index: int) -> list[list[float]]:
    return [[values[index] for values in row] for row in table]


def _histograms(name: str, rows: Sequence[PredictionRow]) -> list[dict[str, Any]]:
    """Per subset, clips by conflict score, stacked by what was done about them."""
    subsets: dict[str, list[PredictionRow]] = {}
    for row in rows:
        if row.conflict is not None:
            subsets.setdefault(row.subset, []).append(row)
    found = []
    for subset, own in subsets.items():
        groups = [(css, [row for row in own if row.target == target]) for target, (css, _) in TARGETS.items()]
        groups.append((UNSTEERED[0], [row for row in own if row.target is None]))
        stacks = [(css, _counts(group)) for css, group in groups]
        steered = sum(row.target is not None for row in own) / len(own)
        label = f"{name}, {subset}: {len(own)} clips by conflict score, {100 * steered:.1f} % steered"
        plot = svg.histogram(stacks, label=label)
        found.append({"subset": subset, "n": len(own), "steered": steered, "plot": plot})
    return found


def _counts(rows: Sequence[PredictionRow]) -> list[int]:
    counts = [0] * _BINS
    for row in rows:
        assert row.conflict is not None
        counts[min(int(row.conflict * _BINS), _BINS - 1)] += 1
    return counts
