"""Builds what the comparison's template shows. Text is escaped by the template engine, by :mod:`.svg`, or as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.compare.collect import Benchmark, System
from mosear.evaluation.compare.scores import Difference, calibration_error, confidences, own_numbers, reliability
from mosear.evaluation.kinds import SCORINGS
from mosear.evaluation.report import svg
from mosear.evaluation.report.attention import steering_section
from mosear.evaluation.report.compare_verdict import WORDS, verdict_card
from mosear.evaluation.report.contribution import contribution_section
from mosear.evaluation.report.scale import SMALLEST_AXIS, around_zero, from_zero
from mosear.evaluation.report.text import in_words, percent, points, template_environment
from mosear.evaluation.summary import CONFLICT_MEAN, GAP
from mosear.files import written_atomically

_COLOURS = 8


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One benchmark's numbers.

    Attributes:
        benchmark: what was run.
        reference: the system that the others are compared with.
        accuracies: ``{system: {question: interval}}``.
        differences: systems minus the reference, corrected.
        against_controls: ``{system: (control, difference)}`` from the strongest control of its own, see
            :func:`mosear.evaluation.compare.scores.against_controls`.
        clips: of :func:`mosear.evaluation.compare.clips.clip_records`.
    """

    benchmark: Benchmark
    reference: str
    accuracies: Mapping[str, Mapping[str, Interval]]
    differences: Sequence[Difference]
    against_controls: Mapping[str, tuple[str, Interval]]
    clips: Mapping[str, Any]


def write_comparison(path: str | os.PathLike[str], scored: Sequence[Scored], *, title: str, n_boot: int) -> None:
    """Writes the page atomically.

    Args:
        path: the file to write.
        scored: the benchmarks.
        title: heading of the page.
        n_boot: bootstrap replicates, for the small print.
    """
    script = (Path(__file__).parent / "compare.js").read_text(encoding="utf-8")
    shown = [one for one in scored if one.clips["clips"]]
    context = {
        "title": title,
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "data": as_json({"benchmarks": [one.clips for one in shown], "colours": _colours(scored)}),
        "n_boot": n_boot,
        "compared": sum(len(one.differences) for one in scored),
        "exact": sum(d.exact is not None for one in scored for d in one.differences),
        "verdicts": [verdict_card(one) for one in scored],
        "benchmarks": [_benchmark(one, _colours(scored), several=len(scored) > 1) for one in scored],
        "bar_axis": svg.share_axis(),
        "contribution": _contribution(scored),
        "steering": _steering(scored),
        "runs": _runs(scored, Path(path)),
        "embedded": sum(len(one.clips["clips"]) for one in scored),
        "available": sum(len(ids) for one in scored for ids in one.benchmark.subsets.values()),
        "subsets": [
            (f"{i}:{subset}", (f"{one.benchmark.name}: " if len(shown) > 1 else "") + in_words(subset))
            for i, one in enumerate(shown)
            for subset in one.benchmark.subsets
        ],
    }
    html = template_environment().get_template("compare.html.j2").render(context)
    with written_atomically(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def as_json(value: Any) -> Markup:
    """JSON for a script element: no character in it can end the element, open a comment, or start an entity."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _colours(scored: Sequence[Scored]) -> dict[str, str]:
    """One colour per system on every benchmark; a control has its owner's."""
    names = list(dict.fromkeys(name for one in scored for name, s in one.benchmark.systems.items() if not s.control))
    own = {name: f"s{i % _COLOURS}" for i, name in enumerate(names)}
    for one in scored:
        for name, system in one.benchmark.systems.items():
            if system.control:
                own[name] = own[max((other for other in names if name.startswith(other)), key=len)]
    return own


def _p(value: float | None) -> str:
    """A p-value as printed: three digits, never 0."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _benchmark(one: Scored, colours: Mapping[str, str], *, several: bool) -> dict[str, Any]:
    systems = one.benchmark.systems
    names = [name for name, system in systems.items() if not system.control]
    return {
        "name": one.benchmark.name,
        "several": several,
        "reference": one.reference,
        "labels": len(one.benchmark.labels),
        "scoring": SCORINGS[one.benchmark.kind],
        "chance": _chance(one.benchmark),
        "own": _own_table(one.benchmark),
        "clips": sum(map(len, one.benchmark.subsets.values())),
        "legend": [
            (name, colours[name], system.control, "" if system.control else system.size())
            for name, system in systems.items()
        ],
        "keys": sorted(one.accuracies[names[0]], key=lambda key: key not in (CONFLICT_MEAN, GAP)),
        "subsets": {name: len(ids) for name, ids in one.benchmark.subsets.items()},
        "table": one.accuracies,
        "bars": _bars(one, colours),
        "gaps": _gaps(one, colours),
        "forests": _forests(one),
        "reliability": _reliability(one.benchmark, colours),
    }


def _chance(benchmark: Benchmark) -> float | None:
    return 1 / len(benchmark.labels) if SCORINGS[benchmark.kind].chance else None


def _own_table(benchmark: Benchmark) -> dict[str, Any] | None:
    """The numbers that only this kind of predictions has: a column for each, a group of rows per subset."""
    groups: dict[str, dict[str, list[str]]] = {}
    numbers = SCORINGS[benchmark.kind].own_numbers()
    for subset, number, means in own_numbers(benchmark, numbers):
        for name, mean in means.items():
            groups.setdefault(subset, {}).setdefault(name, []).append(number.text(mean))
    return {"headings": [number.heading for number in numbers], "groups": groups} if groups else None


def _bars(one: Scored, colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Per subset one bar per system, hollow for a control."""
    groups = []
    for subset, ids in one.benchmark.subsets.items():
        bars = []
        for name, system in one.benchmark.systems.items():
            value, low, high = one.accuracies[name][subset]
            label = f"{in_words(subset)}, {in_words(name)}: {percent(value)} %, "
            label += f"95 % interval {percent(low)} to {percent(high)}"
            plot = svg.accuracy_bar(
                value,
                (low, high),
                css=colours[name],
                chance=_chance(one.benchmark),
                label=label,
                hollow=system.control,
            )
            bars.append({"name": name, "value": value, "interval": (low, high), "plot": plot})
        groups.append({"subset": subset, "n": len(ids), "bars": bars})
    return groups


def _gaps(one: Scored, colours: Mapping[str, str]) -> dict[str, Any] | None:
    gaps = {name: values[GAP] for name, values in one.accuracies.items() if GAP in values}
    if not gaps:
        return None
    scale = from_zero(max(max(interval) for interval in gaps.values()) or SMALLEST_AXIS)
    rows = []
    for name, interval in gaps.items():
        mean, low, high = map(percent, interval)
        label = f"{in_words(name)}: gap {mean} points, 95 % interval {low} to {high}"
        plot = svg.dot_mark(*interval, scale=scale, css=colours[name], label=label)
        rows.append({"name": name, "interval": interval, "plot": plot})
    return {"rows": rows, "axis": svg.axis(scale, lambda gap: f"{100 * gap:g}")}


def _forests(one: Scored) -> list[dict[str, Any]]:
    """Per system: every question with its difference, both tests, and what they say together."""
    bounds = [abs(bound) for d in one.differences for bound in d.interval]
    scale = around_zero(max(bounds, default=0.0) or SMALLEST_AXIS)
    axis = svg.points_axis(scale)
    forests: dict[str, dict[str, Any]] = {}
    for d in one.differences:
        css, words = WORDS[d.gain]
        label = f"{in_words(d.key)}: {points(d.interval.mean)} points, {words}"
        row = {
            "key": d.key,
            "interval": d.interval,
            "css": css,
            "words": words,
            "mark": svg.difference_mark(*d.interval, scale=scale, css=css, label=label),
            "counts": f"{d.exact.first_better:,} : {d.exact.second_better:,}" if d.exact else "–",
            "ps": [_p(d.exact.p if d.exact else None), _p(d.exact_holm), _p(d.bootstrap_p), _p(d.bootstrap_holm)],
        }
        forests.setdefault(d.system, {"name": d.system, "rows": [], "axis": axis})["rows"].append(row)
    return list(forests.values())


def _reliability(benchmark: Benchmark, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """Per system a diagram over all clips, and calibration error per subset."""
    plots = []
    for name, system in benchmark.systems.items():
        confidence, right = confidences(system) if not system.control else ([], [])
        if not confidence:
            continue
        bins = reliability(confidence, right)
        error = calibration_error(bins)
        label = f"{in_words(name)}: {len(confidence):,} answers, expected calibration error {percent(error)} points"
        plots.append(
            {
                "name": name,
                "n": len(confidence),
                "left_out": sum(len(run.rows) for run in system.runs) - len(confidence),
                "error": error,
                "plot": svg.reliability(
                    [(b.n, b.confidence, b.accuracy) for b in bins], css=colours[name], label=label
                ),
                "subsets": [
                    calibration_error(reliability(*confidences(system, subset))) for subset in benchmark.subsets
                ],
            }
        )
    return {"plots": plots, "subsets": list(benchmark.subsets)} if plots else None


def _told(one: Scored, system: System, index: int, several: bool) -> str:
    """A run's name where sections speak of runs."""
    run = system.runs[index]
    own = f", {run.base} seed {run.seed}" if len(system.runs) > 1 else ""
    return f"{system.name}{own}" + (f", {one.benchmark.name}" if several else "")


def _contribution(scored: Sequence[Scored]) -> dict[str, Any] | None:
    """Contribution of the runs that measured it, in one section."""
    several = len(scored) > 1
    summaries: dict[str, dict[str, Any]] = {}
    for one in scored:
        for system in one.benchmark.systems.values():
            for i, run in enumerate(system.runs):
                if measured := run.scores.get("contribution"):
                    prefix = f"{one.benchmark.name}: " if several else ""
                    subsets = {prefix + subset: _with_nan(scores) for subset, scores in measured["subsets"].items()}
                    summaries[_told(one, system, i, several)] = {"contribution": {**measured, "subsets": subsets}}
    return contribution_section(summaries, list(summaries))


def _with_nan(scores: Mapping[str, Any]) -> dict[str, Any]:
    """``metrics.json`` writes null for a share that is not defined; in memory it is NaN."""
    restored: dict[str, Any] = {"n": scores["n"]}
    for worth, values in scores.items():
        if isinstance(values, Mapping):
            shares = {key: math.nan if share is None else share for key, share in values["shares"].items()}
            restored[worth] = {**values, "shares": shares}
    return restored


def _steering(scored: Sequence[Scored]) -> dict[str, Any] | None:
    """Attention maps and conflict scores of one run of every steered system."""
    summaries, predictions = {}, {}
    for one in scored:
        for system in one.benchmark.systems.values():
            if system.runs:
                name = _told(one, system, 0, len(scored) > 1)
                summaries[name], predictions[name] = system.runs[0].scores, list(system.runs[0].rows.values())
    return steering_section(summaries, predictions, list(summaries))


def _runs(scored: Sequence[Scored], page: Path) -> list[dict[str, Any]]:
    """The runs behind the page, with a relative link to each one's own report."""
    found = []
    for one in scored:
        for system in one.benchmark.systems.values():
            for run in system.runs:
                report = run.files.directory / "report.html"
                link = Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix()
                found.append(
                    {
                        "benchmark": one.benchmark.name,
                        "system": system.name,
                        "base": run.base,
                        "seed": run.seed,
                        "clips": len(run.rows),
                        "adapter": (run.files.adapter if run.tuned else None) or "–",
                        "link": link if report.is_file() else None,
                        "directory": run.files.directory.name,
                    }
                )
    return found
