"""Inline SVG for the report. Colours are CSS classes, so that light and dark follow the page.

Horizontal bars use percentages as x coordinates instead of a viewBox: they stretch with the page while text and strokes
keep their size on a phone.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

from mosear.evaluation.report.scale import SHARES, Scale, enclosing

_BAR_HEIGHT = 18
_CELL_MAX, _CELL_MIN, _CELL_FOR_NUMBERS = 27, 12, 20
_MATRIX_SIDE = 300
_NAME_LENGTH = 10


def _svg(body: str, *, label: str, attributes: str) -> Markup:
    return Markup(f'<svg role="img" aria-label="{escape(label)}" {attributes}>{body}</svg>')


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _whisker(low: float, high: float, middle: float, half: float = 3.5) -> str:
    ends = "".join(
        f'<line x1="{x}" x2="{x}" y1="{middle - half}" y2="{middle + half}"/>' for x in (_percent(low), _percent(high))
    )
    return (
        f'<g class="whisker"><line x1="{_percent(low)}" x2="{_percent(high)}" y1="{middle}" y2="{middle}"/>{ends}</g>'
    )


def _grid(positions: Sequence[float], height: float, css: str = "grid") -> str:
    return "".join(
        f'<line class="{css}" x1="{_percent(at)}" x2="{_percent(at)}" y1="0" y2="{height}"/>' for at in positions
    )


def accuracy_bar(
    value: float, interval: Sequence[float] | None, *, css: str, chance: float | None, label: str, hollow: bool = False
) -> Markup:
    """One bar on a 0 to 1 scale with its interval, the grid behind it and a mark at chance level, if there is one."""
    inset = 5.0 if hollow else 3.5
    body = _grid(SHARES.places, _BAR_HEIGHT) + _grid(() if chance is None else (chance,), _BAR_HEIGHT, "chance")
    body += (
        f'<rect class="bar {css}{" hollow" if hollow else ""}" x="0" y="{inset}" width="{_percent(value)}" '
        f'height="{_BAR_HEIGHT - 2 * inset}" rx="1.5"/>'
    )
    if interval is not None:
        body += _whisker(interval[0], interval[1], _BAR_HEIGHT / 2)
    return _svg(body, label=label, attributes=f'class="plot" width="100%" height="{_BAR_HEIGHT}"')


def share_bar(
    shares: Sequence[tuple[str, float]], interval: Sequence[float] | None, *, mark: float, label: str
) -> Markup:
    """One bar of (css class, share) segments that add up to 1, a whisker at the end of the first, and a dotted mark."""
    body, start = _grid(SHARES.places, _BAR_HEIGHT), 0.0
    for css, share in shares:
        body += (
            f'<rect class="bar {css}" x="{_percent(start)}" y="3.5" width="{_percent(share)}" '
            f'height="{_BAR_HEIGHT - 7}"/>'
        )
        start += share
    body += _grid((mark,), _BAR_HEIGHT, "threshold")
    if interval is not None:
        body += _whisker(interval[0], interval[1], _BAR_HEIGHT / 2)
    return _svg(body, label=label, attributes=f'class="plot" width="100%" height="{_BAR_HEIGHT}"')


def axis(scale: Scale, written: Callable[[float], str]) -> Markup:
    """Tick labels under a stack of bars.

    Args:
        scale: the bars' scale.
        written: a tick's value as text.
    """
    anchors = {scale.ticks[0]: "start", scale.ticks[-1]: "end"}
    body = "".join(
        f'<text x="{_percent(scale.at(tick))}" y="12" text-anchor="{anchors.get(tick, "middle")}">'
        f"{escape(written(tick))}</text>"
        for tick in scale.ticks
    )
    return Markup(f'<svg class="plot axis" aria-hidden="true" width="100%" height="16">{body}</svg>')


def share_axis() -> Markup:
    """The axis of bars that show shares, in per cent."""
    return axis(SHARES, lambda share: f"{100 * share:.0f}{' %' if share in (0, 1) else ''}")


def points_axis(scale: Scale) -> Markup:
    """The axis of differences of shares, in signed percentage points."""
    return axis(scale, lambda share: f"{100 * share:+g}".replace("-", "−") if share else "0")


def difference_mark(mean: float, low: float, high: float, *, scale: Scale, css: str, label: str) -> Markup:
    """A point with its interval on a scale that has zero in its middle."""
    height = 24
    body = _grid([at for at in scale.places if at != 0.5], height) + _grid((0.5,), height, "zero")
    body += f'<g class="{css}">{_whisker(scale.at(low), scale.at(high), height / 2, 4)}'
    body += f'<circle cx="{_percent(scale.at(mean))}" cy="{height / 2}" r="4.5"/></g>'
    return _svg(body, label=label, attributes=f'class="plot" width="100%" height="{height}"')


def dot_mark(mean: float, low: float, high: float, *, scale: Scale, css: str, label: str) -> Markup:
    """A point with its interval on a scale from 0."""
    height = 24
    body = _grid(scale.places, height) + _whisker(scale.at(low), scale.at(high), height / 2, 4)
    body += f'<circle class="{css}" cx="{_percent(scale.at(mean))}" cy="{height / 2}" r="5"/>'
    return _svg(body, label=label, attributes=f'class="plot dots" width="100%" height="{height}"')


def score_marks(truth: float, said: Sequence[tuple[str, str, float]], *, scale: Scale, label: str) -> Markup:
    """A true score as a line and predicted ones as dots on a scale, with its ticks below.

    Args:
        truth: the true score.
        said: (name, css class, score) of each system.
        scale: that holds all of them.
        label: the plot in words.
    """
    height = 22
    body = _grid(scale.places, height)
    body += f'<line class="zero" x1="0" x2="100%" y1="{height / 2}" y2="{height / 2}"/>'
    at = _percent(scale.at(truth))
    body += f'<line class="truth" x1="{at}" x2="{at}" y1="1" y2="{height - 1}"><title>true {truth:.2f}</title></line>'
    for name, css, value in said:
        body += f'<circle class="{css}" cx="{_percent(scale.at(value))}" cy="{height / 2}" r="5">'
        body += f"<title>{escape(name)} {value:.2f}</title></circle>"
    plot = _svg(body, label=label, attributes=f'class="plot scores" width="100%" height="{height}"')
    return plot + axis(scale, lambda tick: f"{tick:g}".replace("-", "−"))


def paired_bars(shares: Sequence[tuple[str, float | None]], *, label: str) -> Markup:
    """Thin bars under each other, one per (css class, share); None draws nothing."""
    height, step = 7 * len(shares) + 3, 7
    body = "".join(
        f'<rect class="track" x="0" y="{2 + step * i}" width="100%" height="5" rx="2.5"/>'
        + (
            f'<rect class="bar {css}" x="0" y="{2 + step * i}" width="{_percent(share)}" height="5" rx="2.5"/>'
            if share is not None
            else ""
        )
        for i, (css, share) in enumerate(shares)
    )
    return _svg(body, label=label, attributes=f'class="plot" width="100%" height="{height}"')


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


def _width(text: str, font: float) -> float:
    """How wide a text is at most, in fonts as wide as DejaVu Sans: an SVG cuts what lies outside of it."""

    def em(character: str) -> float:
        if unicodedata.east_asian_width(character) in "WF":
            return 1.05
        if character in "mwMW@%&…—":
            return 1.0
        return 0.8 if character.isupper() else 0.66

    return font * sum(map(em, text))


def confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str], *, label: str) -> Markup:
    """Heat map of a ``[C, C + 1]`` matrix: shade = share of the row, number = clips, last column = unparsed."""
    cell = max(_CELL_MIN, min(_CELL_MAX, _MATRIX_SIDE // (len(labels) + 1)))
    font, apart = min(11.5, cell - 2), 6
    answers = [*labels, "unparsed"]
    # Column names are turned by 45 degrees: they reach as far to the right as up.
    reach = [(_width(_short(name), font) + font) * math.sqrt(0.5) for name in answers]
    left = round(max(_width(_short(name), font) for name in labels)) + 8
    top = round(max(reach)) + 6
    starts = [left + column * cell + (apart if column == len(labels) else 0) for column in range(len(answers))]
    parts: list[str] = []
    for column, (name, x) in enumerate(zip(answers, starts, strict=True)):
        parts.append(
            f'<text class="tick" font-size="{font}" transform="translate({x + cell / 2:.1f} {top - 6}) rotate(-45)">'
            f"{escape(_short(name))}<title>{escape(name)}</title></text>"
        )
        for row, counts in enumerate(matrix):
            hint = f"{labels[row]}, answered {name}: {counts[column]} of {sum(counts)}"
            kind = "unread" if column == len(labels) else "right" if column == row else "wrong"
            share = counts[column] / max(sum(counts), 1)
            number = counts[column] if cell >= _CELL_FOR_NUMBERS else 0
            parts.append(_cell(x, top + row * cell, cell, share=share, kind=kind, number=number, hint=hint))
    for row, name in enumerate(labels):
        baseline = top + row * cell + cell / 2 + font / 3
        parts.append(
            f'<text class="tick end" font-size="{font}" x="{left - 6}" y="{baseline:.1f}">'
            f"{escape(_short(name))}<title>{escape(name)}</title></text>"
        )
    width = max(starts[-1] + cell, *(x + cell / 2 + far for x, far in zip(starts, reach, strict=True)))
    box = f'class="matrix" viewBox="0 0 {width:.0f} {top + len(labels) * cell}" style="max-width:{width:.0f}px"'
    return _svg("".join(parts), label=label, attributes=box)


def _cell(x: float, y: float, cell: int, *, share: float, kind: str, number: int, hint: str) -> str:
    """One cell of a confusion matrix; no number where it is 0."""
    font = min(11.5, cell - 2)
    place = f'x="{x:.1f}" y="{y}" width="{cell - 1}" height="{cell - 1}" rx="2"'
    shown = f'<rect class="cell" {place}/><rect class="shade {kind}" {place} fill-opacity="{share:.3f}"/>'
    if number:
        shown += (
            f'<text class="count{" strong" if share > 0.55 else ""}" font-size="{font}" x="{x + cell / 2:.1f}" '
            f'y="{y + cell / 2 + font / 3:.1f}">{number}</text>'
        )
    return f"<g><title>{escape(hint)}</title>{shown}</g>"


def heat_map(table: Sequence[Sequence[float]], *, css: str, limit: float, label: str) -> Markup:
    """Heat map of a ``[rows, columns]`` table of shares: full shade is ``limit``, numbers are per cent."""
    rows, columns = len(table), max(map(len, table))
    cell = max(_CELL_MIN, min(_CELL_MAX, _MATRIX_SIDE // columns))
    left, top = 22, 16
    size = f'width="{columns * cell - 1}" height="{rows * cell - 1}"'
    parts = [f'<g class="{css}"><rect class="cell" x="{left}" y="{top}" {size}/>']
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            x, y = left + column * cell, top + row * cell
            share = min(max(value / limit, 0.0), 1.0)
            parts.append(
                f'<rect class="shade" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'fill-opacity="{share:.2f}">'
                f"<title>{escape(f'layer {row}, head {column}: {100 * value:.1f} %')}</title></rect>"
            )
            if cell >= _CELL_FOR_NUMBERS:
                parts.append(
                    f'<text class="count{" strong" if share > 0.55 else ""}" font-size="10" x="{x + cell / 2 - 0.5}" '
                    f'y="{y + cell / 2 + 3}">{100 * value:.0f}</text>'
                )
    parts.append("</g>")
    for column in _numbered(columns):
        parts.append(
            f'<text class="tick mid" font-size="9" x="{left + column * cell + cell / 2}" y="{top - 5}">{column}</text>'
        )
    for row in _numbered(rows):
        baseline = top + row * cell + cell / 2 + 3
        parts.append(f'<text class="tick end" font-size="9" x="{left - 5}" y="{baseline}">{row}</text>')
    width, height = left + columns * cell, top + rows * cell
    box = f'class="heatmap" viewBox="0 0 {width} {height}" style="max-width:{width}px"'
    return _svg("".join(parts), label=label, attributes=box)


def _numbered(count: int) -> range:
    """Which of ``count`` rows or columns carry their number."""
    return range(0, count, 1 if count <= 16 else 4)


def histogram(stacks: Sequence[tuple[str, Sequence[int]]], *, label: str) -> Markup:
    """Counts over equal bins of [0, 1], stacked: one (css class, count per bin) after the other, from below."""
    left, top, wide, high = 34.0, 6.0, 200.0, 70.0
    bins = len(stacks[0][1])
    largest = max(1, *(sum(counts[i] for _, counts in stacks) for i in range(bins)))
    parts = [f'<line class="zero" x1="{left}" x2="{left + wide}" y1="{top + high}" y2="{top + high}"/>']
    for i in range(bins):
        base, x = top + high, left + wide * i / bins
        for css, counts in stacks:
            size = high * counts[i] / largest
            base -= size
            if counts[i]:
                hint = f"{i / bins:.2f} to {(i + 1) / bins:.2f}: {counts[i]}"
                parts.append(
                    f'<rect class="bar {css}" x="{x + 0.5:.2f}" y="{base:.2f}" width="{wide / bins - 1:.2f}" '
                    f'height="{size:.2f}"><title>{escape(hint)}</title></rect>'
                )
    parts.append(f'<text class="tick end" font-size="9" x="{left - 4}" y="{top + 6}">{largest:,}</text>')
    for value, anchor in ((0, ""), (0.5, " mid"), (1, " end")):
        parts.append(
            f'<text class="tick{anchor}" font-size="9" x="{left + wide * value}" y="{top + high + 11}">{value}</text>'
        )
    return _svg("".join(parts), label=label, attributes='class="chart" viewBox="0 0 238 90"')


def reliability(bins: Sequence[tuple[int, float, float]], *, css: str, label: str) -> Markup:
    """Share of right answers against confidence, over equal bins of [0, 1].

    Args:
        bins: (answers, mean confidence, share right) of each; the last two are not read where there are no answers.
        css: colour.
        label: the plot in words.
    """
    left, top, side, low = 30.0, 6.0, 150.0, 34.0
    wide, floor, largest = side / len(bins), top + side + low, max(1, *(n for n, _, _ in bins))
    parts = [
        f'<line class="grid" x1="{left}" x2="{left + side}" y1="{top + side * (1 - at)}" y2="{top + side * (1 - at)}"/>'
        f'<text class="tick end" font-size="9" x="{left - 4}" y="{top + side * (1 - at) + 3:.1f}">{100 * at:.0f}</text>'
        for at in (0, 0.5, 1)
    ]
    for i, (n, confidence, right) in enumerate(bins):
        if not n:
            continue
        place = f'x="{left + i * wide + 0.75:.2f}" width="{wide - 1.5:.2f}"'
        level, size = top + side * (1 - right), 26 * n / largest
        hint = f"{n:,} answers, {100 * confidence:.1f} % confident, {100 * right:.1f} % right"
        parts.append(
            f'<g class="{css}"><title>{escape(hint)}</title>'
            f'<rect class="bar" {place} y="{level:.2f}" height="{side * right:.2f}"/>'
            f'<rect class="bar count-bar" {place} y="{floor - size:.2f}" height="{size:.2f}"/>'
            f'<circle cx="{left + side * confidence:.2f}" cy="{level:.2f}" r="2.6"/></g>'
        )
    parts.append(f'<line class="ideal" x1="{left}" x2="{left + side}" y1="{top + side}" y2="{top}"/>')
    parts.append(f'<line class="zero" x1="{left}" x2="{left + side}" y1="{floor}" y2="{floor}"/>')
    parts.append(f'<text class="tick end" font-size="9" x="{left - 4}" y="{floor - 19}">{largest:,}</text>')
    for value, anchor in ((0, ""), (0.5, " mid"), (1, " end")):
        x = left + side * value
        parts.append(f'<text class="tick{anchor}" font-size="9" x="{x}" y="{floor + 11}">{100 * value:.0f}</text>')
    box = f'class="chart reliability" viewBox="0 0 {left + side + 4:.0f} {floor + 15:.0f}"'
    return _svg("".join(parts), label=label, attributes=box)


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], css: Mapping[str, str], *, label: str) -> Markup:
    """Lines over a common x range and a y range from the data; only finite points are shown, one alone as a dot."""
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return Markup('<p class="note">No finite values.</p>')
    left, top, wide, high = 46.0, 8.0, 390.0, 150.0
    across, up = (enclosing([point[i] for point in everything]) for i in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        return left + wide * across.at(x), top + high * (1 - up.at(y))

    parts = []
    for value in up.ticks:
        y = place(0, value)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{left + wide}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" font-size="11" x="{left - 6}" y="{y + 3.5:.1f}">{value:.4g}</text>')
    for value in across.ticks:
        anchor = "end" if value == across.ticks[-1] else "mid"
        x = place(value, 0)[0]
        parts.append(f'<text class="tick {anchor}" font-size="11" x="{x:.1f}" y="{top + high + 16}">{value:.6g}</text>')
    for name, points in finite.items():
        hint = f"<title>{escape(name)}</title>"
        if len(points) == 1:
            x, y = place(*points[0])
            parts.append(f'<circle class="dot-only {css[name]}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{hint}</circle>')
            continue
        line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        parts.append(f'<polyline class="line {css[name]}" points="{line}">{hint}</polyline>')
    return _svg("".join(parts), label=label, attributes='class="chart" viewBox="0 0 446 180"')
