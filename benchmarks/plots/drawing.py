"""Charts as SVG files: rows of names, panels of points or bars with intervals. Colours are those of the report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import escape

import mosear.evaluation.report
from benchmarks.plots.tables import Value
from mosear.evaluation.report.scale import Scale, around_zero, from_zero

THEMES = ("auto", "light", "dark")
"""``auto`` follows the reader's system; the other two are for ``<picture>``."""

_ROW, _HEAD, _FOOT, _GAP, _PLOT, _NUMBER, _MARGIN = 21, 26, 22, 18, 78, 42, 20
_PAGE = 940  # px that a page has for a picture
_LETTER = 6.3  # width of a letter at 12 px, at most


@dataclass(frozen=True)
class Panel:
    """One column of a chart: a scale, and a value (or none) per row."""

    title: str
    scale: Scale
    values: tuple[Value | None, ...]


@dataclass(frozen=True)
class Row:
    """A line of a chart: its name, its colour, and the heading that opens before it."""

    name: str
    css: str
    heading: str = ""


def palettes() -> tuple[str, str]:
    """The report's colours: declarations for light and for dark."""
    style = (Path(mosear.evaluation.report.__file__).parent / "style.css.j2").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{([^}]*)\}", style)
    light, dark = (" ".join(re.findall(r"--[\w-]+: [^;]+;", block)) for block in blocks[:2])
    return light, dark


def style(theme: str) -> str:
    """The style sheet of a picture."""
    light, dark = palettes()
    first = dark if theme == "dark" else light
    later = f"@media (prefers-color-scheme: dark){{:root{{{dark}}}}}" if theme == "auto" else ""
    return (
        f"<style>:root{{{first}}}{later}"
        "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;fill:var(--ink)}"
        ".page{fill:var(--card);stroke:var(--line)}.title{font-size:15px;font-weight:650}.muted{fill:var(--muted)}"
        ".head{font-weight:600}.small{font-size:10.5px;fill:var(--muted)}.value{font-variant-numeric:tabular-nums}"
        ".end{text-anchor:end}.mid{text-anchor:middle}.grid{stroke:var(--line)}.zero{stroke:var(--muted)}"
        ".s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.control{--c:var(--control)}"
        ".mark{stroke:var(--c);stroke-width:1.6}circle.mark{fill:var(--c);stroke:none}rect.mark{fill:var(--c);stroke:none}"
        ".box{fill:var(--track);stroke:var(--c,var(--muted));stroke-width:1.4}.arrow{stroke:var(--muted);stroke-width:1.5;"
        "fill:none}.tip{fill:var(--muted)}.dashed{stroke-dasharray:4 3}</style>"
    )


def picture(body: str, width: float, height: float, *, label: str, theme: str) -> str:
    """A whole SVG file on a card of its own, which stays readable on any page."""
    width, height = math.ceil(width), math.ceil(height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}">{style(theme)}'
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"/>{body}</svg>\n'
    )


def text(x: float, y: float, words: str, css: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}"{f" class={chr(34)}{css}{chr(34)}" if css else ""}>{escape(words)}</text>'


def scale_of(kind: str, values: Sequence[Value | None]) -> Scale:
    """``share`` is 0 to 100, ``zero`` starts at 0, ``centre`` has 0 in its middle."""
    known = [bound for value in values if value is not None for bound in (value.low, value.high)]
    if kind == "share":
        return Scale((0.0, 50.0, 100.0))
    if kind == "centre":
        return around_zero(max(map(abs, known)) or 1.0)
    return from_zero(max(known))


def _mark(value: Value, at: float, y: float, scale: Scale, css: str, *, bars: bool) -> str:
    low, mean, high = (at + _PLOT * scale.at(x) for x in (value.low, value.mean, value.high))
    if bars:
        zero = at + _PLOT * scale.at(max(scale.ticks[0], 0.0))
        drawn = (
            f'<rect class="mark" x="{zero:.1f}" y="{y - 5}" width="{max(mean - zero, 0.5):.1f}" height="10" rx="1.5"/>'
        )
    else:
        drawn = f'<circle class="mark" cx="{mean:.1f}" cy="{y}" r="3.8"/>'
    if high > low:
        drawn += f'<path class="{"zero" if bars else "mark"}" d="M{low:.1f} {y}H{high:.1f}"/>'
    return f'<g class="{css}">{drawn}</g>'


def _panel(panel: Panel, rows: Sequence[tuple[Row, float]], left: float, top: float, bottom: float, bars: bool) -> str:
    drawn = text(left, top - 8, panel.title, "head")
    first, last = panel.scale.ticks[0], panel.scale.ticks[-1]
    shown = (first, 0.0, last) if first < 0 < last else (first, last)
    for tick in panel.scale.ticks:
        x = left + _PLOT * panel.scale.at(tick)
        drawn += f'<path class="{"zero" if tick == 0 and first < 0 else "grid"}" d="M{x:.1f} {top}V{bottom}"/>'
        if tick in shown:
            drawn += text(x, bottom + 13, f"{tick:g}".replace("-", "−"), "small mid")
    for (row, y), value in zip(rows, panel.values, strict=True):
        if value is not None:
            drawn += _mark(value, left, y, panel.scale, row.css, bars=bars)
            drawn += text(left + _PLOT + _NUMBER, y + 4, value.text, "value end small")
    return drawn


def chart(title: str, note: str, rows: Sequence[Row], panels: Sequence[Panel], *, bars: bool, theme: str) -> str:
    """Panels beside each other, in as many lines as a page needs, with the rows' names on the left of each."""
    names = max(_LETTER * len(row.name) for row in rows) + _MARGIN + 12
    names = max(names, *(7.2 * len(row.heading) + _MARGIN + 6 for row in rows))
    step = _PLOT + _NUMBER + _GAP
    lines = math.ceil(len(panels) / max(1, int((_PAGE - names) // step)))
    across = math.ceil(len(panels) / lines)
    width = max(names + step * across, 8.2 * len(title) + 2 * _MARGIN, 6 * len(note) + 2 * _MARGIN)
    body, top = text(_MARGIN, 30, title, "title") + text(_MARGIN, 49, note, "muted"), 60.0
    for start in range(0, len(panels), across):
        top += _HEAD
        y, placed = top + _ROW / 2, []
        for row in rows:
            if row.heading:
                body += text(_MARGIN, y + 4, row.heading, "head")
                y += _ROW
            body += text(names - 12, y + 4, row.name, "end")
            placed.append((row, y))
            y += _ROW
        bottom = y - _ROW / 2
        for i, panel in enumerate(panels[start : start + across]):
            body += _panel(panel, placed, names + step * i, top, bottom, bars)
        top = bottom + _FOOT
    return picture(body, width, top + 8, label=f"{title}. {note}", theme=theme)
