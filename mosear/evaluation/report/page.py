"""Builds what the report's template shows. All text is escaped by the template engine or by :mod:`.svg`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.kinds import Number, Scoring, scoring_of
from mosear.evaluation.predictions import PredictionRow, kind_of
from mosear.evaluation.report import svg
from mosear.evaluation.report.answers import HOW_TO_READ, common_scale
from mosear.evaluation.report.attention import steering_section
from mosear.evaluation.report.benchmark import benchmark_section
from mosear.evaluation.report.content import Example, LineChart
from mosear.evaluation.report.contribution import contribution_section
from mosear.evaluation.report.control import CONTROL_NAMES, control_to_beat
from mosear.evaluation.report.examples import example_card
from mosear.evaluation.report.scale import SMALLEST_AXIS, around_zero
from mosear.evaluation.report.text import BASELINE, heading, in_words, percent, points, template_environment
from mosear.evaluation.report.verdict import direction, reference_subset, verdict
from mosear.evaluation.summary import CONFLICT_MEAN, GAP, paired_differences
from mosear.files import written_atomically

CANDIDATE = "tuned"

_SYSTEM_COLOURS = 4
_FOLDED_FROM = 12


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    run_info: Mapping[str, Any],
    summaries: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, Sequence[PredictionRow]],
    labels: Sequence[str],
    examples: Sequence[Example] = (),
    examples_note: str = "",
    charts: Sequence[LineChart] = (),
    files: Mapping[str, Path] | None = None,
) -> None:
    """Writes ``report.html`` atomically.

    Args:
        path: the file to write.
        title: heading of the page.
        run_info: what ran. Scalars on the top level form one table; each nested mapping becomes a table of its own with
            dotted keys ("config", "versions", ...).
        summaries: ``{system: summarise(...)}``. "zero_shot", or else the first one, is the baseline of every
            comparison; "tuned", or else the last one, makes the headline. What ``summarise_contribution`` returns may
            stand in it under "contribution", what steering did under "steering_telemetry".
        predictions: ``{system: rows}`` behind the summaries, for paired differences.
        labels: the label list.
        examples: clips to show.
        examples_note: why these clips are shown, in one sentence.
        charts: extra line charts.
        files: files to link to, by what they hold; those that do not lie beside or below the report are left out.

    Raises:
        ValueError: if there is no summary, a system has a summary but no rows, or an image is neither PNG nor JPEG.
    """
    if not summaries:
        raise ValueError('a report needs at least one summary, such as {"tuned": summarise(rows, ...)}.')
    absent = [name for name in summaries if name not in predictions]
    if absent:
        raise ValueError(f"systems {absent} have a summary but no prediction rows; pass both.")
    page = template_environment().get_template("page.html.j2")
    context = _context(title, run_info, summaries, predictions, labels, examples, charts)
    html = page.render(context, examples_note=examples_note, files=_links(files or {}, Path(path).parent))
    with written_atomically(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _context(
    title: str,
    run_info: Mapping[str, Any],
    summaries: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, Sequence[PredictionRow]],
    labels: Sequence[str],
    examples: Sequence[Example],
    charts: Sequence[LineChart],
) -> dict[str, Any]:
    baseline = BASELINE if BASELINE in summaries else next(iter(summaries))
    candidate = CANDIDATE if CANDIDATE in summaries else list(summaries)[-1]
    names = [baseline, *(name for name in summaries if name != baseline)]
    colours = {name: f"s{i % _SYSTEM_COLOURS}" for i, name in enumerate(names)}
    differences = {name: paired_differences(predictions[baseline], predictions[name]) for name in names[1:]}
    lead = summaries[candidate]
    scoring = scoring_of(predictions[candidate])
    chance = 1 / len(labels) if scoring.chance else None
    scale = common_scale(examples)
    control = control_to_beat(candidate, lead, predictions[candidate], labels)
    return {
        "title": title,
        "lead": lead,
        "names": names,
        "colours": colours,
        "baseline": baseline,
        "candidate": candidate,
        "controls": list(lead["controls"]),
        "control_names": CONTROL_NAMES,
        "scoring": scoring,
        "summaries": summaries,
        "labels": labels,
        "chance": chance,
        "tiles": _tiles(summaries, baseline, candidate, differences.get(candidate, {}), scoring),
        "control": control,
        "verdict": verdict(baseline, candidate, differences.get(candidate, {}), lead, control),
        "bars": _bars(summaries, names, colours, candidate, chance),
        "bar_axis": svg.share_axis(),
        "forests": [_forest(name, differences[name]) for name in sorted(names[1:], key=lambda name: name != candidate)],
        "matrices": _matrices(summaries, names, labels),
        "benchmark": benchmark_section(summaries, names),
        "contribution": contribution_section(summaries, names),
        "steering": steering_section(summaries, predictions, names),
        "examples": [example_card(example, labels, colours, scale) for example in examples],
        "examples_how": HOW_TO_READ[kind_of(predictions[candidate])],
        "charts": [_chart(chart) for chart in charts],
        "run_tables": _run_tables(run_info),
    }


def _links(files: Mapping[str, Path], beside: Path) -> list[tuple[str, str]]:
    """``(name, relative URL)``."""
    root = beside.resolve()
    found = {name: path.resolve() for name, path in files.items()}
    return [
        (name, quote(path.relative_to(root).as_posix())) for name, path in found.items() if path.is_relative_to(root)
    ]


def _tiles(
    summaries: Mapping[str, Mapping[str, Any]],
    baseline: str,
    candidate: str,
    differences: Mapping[str, Interval],
    scoring: Scoring,
) -> list[dict[str, Any]]:
    """Headline numbers of the candidate."""
    lead, first = summaries[candidate], summaries[baseline]
    reference = reference_subset(lead)
    tiles = []
    for name, note in (
        (CONFLICT_MEAN, "accuracy where face and voice disagree"),
        (GAP, "0 = no modality favoured"),
    ):
        if lead[name] is not None:
            numbers = {"value": lead[name], "before": first[name], "number": Number(name, name)}
            tiles.append({"name": heading(name), **numbers, "key": name, "note": note})
    tiles.append(
        {
            "name": f"{heading(reference)} accuracy",
            "value": lead["subsets"][reference]["accuracy"],
            "before": first["subsets"][reference]["accuracy"] if reference in first["subsets"] else None,
            "key": reference,
            "number": scoring.numbers[0],
            "note": "face and voice agree" if reference == "consistent" else f"{lead['subsets'][reference]['n']} clips",
        }
    )
    for number in scoring.headline():
        told = f"{in_words(reference)} clips"
        if bounds := lead["subsets"][reference].get("intervals", {}).get(number.key):
            told = f"95 % interval {number.text(bounds[0])} to {number.text(bounds[1])}; {told}"
        if first is not lead and reference in first["subsets"]:
            told += f"; {in_words(baseline)} {number.text(first['subsets'][reference][number.key])}"
        own = {"name": number.heading, "value": lead["subsets"][reference][number.key], "number": number, "note": told}
        tiles.append(own | {"key": number.key, "before": None})
    for tile in tiles:
        difference = differences.get(tile["key"])
        tile["difference"] = difference
        tile["css"] = direction(tile["key"], difference)[0] if difference else ""
        if difference is None:
            tile["before"] = None
    return tiles


def _bars(
    summaries: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    colours: Mapping[str, str],
    candidate: str,
    chance: float | None,
) -> list[dict[str, Any]]:
    """Per subset: one solid bar per system, then the candidate's controls as hollow bars."""
    lead = summaries[candidate]
    groups = []
    for subset in lead["subsets"]:
        rows = []
        for name in names:
            if subset in summaries[name]["subsets"]:
                score = summaries[name]["subsets"][subset]
                rows.append((in_words(name), score["accuracy"], score["interval"], colours[name], False))
        for control, values in lead["controls"].items():
            interval = lead["control_intervals"][control][subset]
            rows.append((CONTROL_NAMES[control], values[subset], interval, f"c-{control}", True))
        bars = []
        for name, value, interval, css, hollow in rows:
            label = f"{in_words(subset)}, {name}: {percent(value)} %"
            if interval is not None:
                label += f", 95 % interval {percent(interval[0])} to {percent(interval[1])}"
            plot = svg.accuracy_bar(value, interval, css=css, chance=chance, label=label, hollow=hollow)
            bars.append({"name": name, "value": value, "interval": interval, "plot": plot})
        groups.append({"subset": subset, "n": lead["subsets"][subset]["n"], "bars": bars})
    return groups


def _forest(name: str, differences: Mapping[str, Interval]) -> dict[str, Any]:
    largest = max(abs(bound) for interval in differences.values() for bound in interval)
    scale = around_zero(largest or SMALLEST_AXIS)
    rows = []
    for key, difference in differences.items():
        css, words = direction(key, difference)
        label = f"{in_words(key)}: {points(difference.mean)} points, {words}"
        mark = svg.difference_mark(*difference, scale=scale, css=css, label=label)
        rows.append({"key": key, "interval": difference, "css": css, "words": words, "mark": mark})
    return {"name": name, "rows": rows, "axis": svg.points_axis(scale)}


def _matrices(
    summaries: Mapping[str, Mapping[str, Any]], names: Sequence[str], labels: Sequence[str]
) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        for subset, score in summaries[name]["subsets"].items():
            if "confusion" not in score:
                continue
            label = f"Confusion matrix, {in_words(subset)}, {in_words(name)}: accuracy {percent(score['accuracy'])} %"
            plot = svg.confusion(score["confusion"], labels, label=label)
            groups.setdefault(subset, []).append({"name": name, "accuracy": score["accuracy"], "plot": plot})
    return [{"subset": subset, "plots": plots} for subset, plots in groups.items()]


def _chart(chart: LineChart) -> dict[str, Any]:
    css = {name: f"s{(i + 1) % _SYSTEM_COLOURS}" for i, name in enumerate(chart.series)}
    label = f"{chart.title}: {', '.join(chart.series)} over {chart.x_label}"
    return {"chart": chart, "css": css, "plot": svg.line_chart(chart.series, css, label=label)}


def _run_tables(run_info: Mapping[str, Any]) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = []
    scalars = {key: value for key, value in run_info.items() if not isinstance(value, Mapping)}
    sections = ({"run": scalars} if scalars else {}) | {k: v for k, v in run_info.items() if isinstance(v, Mapping)}
    for name, section in sections.items():
        rows = [(key, _plain(value)) for key, value in _flatten(section)]
        if rows:
            tables.append({"name": name, "rows": rows, "folded": len(rows) > _FOLDED_FROM})
    return tables


def _flatten(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            items += _flatten(value, f"{prefix}{key}.")
        else:
            items.append((f"{prefix}{key}", value))
    return items


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "–"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.6g}"
    return ", ".join(map(_plain, value)) if isinstance(value, (list, tuple)) else str(value)
