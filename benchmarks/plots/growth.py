"""How a training step grows: lines over doublings, from the table of docs/appendix/growth.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks.plots.drawing import picture, text
from benchmarks.plots.tables import read
from mosear.evaluation.report.scale import from_zero

_QUANTITIES = ("step time", "encoding", "peak memory")
_COLOURS = ("s1", "s2", "s3", "control")
_WIDE, _HIGH, _LEFT, _TOP, _APART = 170, 150, 52, 92, 54


def _series(cell: str) -> list[float]:
    return [float(number) for number in cell.split(",") if number.strip()]


def growth(page: Path, theme: str) -> str:
    """A panel per quantity: its ratio to the first size, over the ratio of sizes; the dashed line is linear growth."""
    table = read(page, ("what doubles", "sizes", *_QUANTITIES))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    sizes = [[size / _series(row["sizes"])[0] for size in _series(row["sizes"])] for row in rows]
    reach = from_zero(max(map(max, sizes)))
    title, note = "What grows how", "Ratio to the first size, over the ratio of sizes; dashed: linear"
    body = text(20, 30, title, "title") + text(20, 49, note, "muted")
    for i, quantity in enumerate(_QUANTITIES):
        left, floor = _LEFT + i * (_WIDE + _APART), _TOP + _HIGH
        body += text(left, _TOP - 12, quantity, "head")
        for tick in reach.ticks:
            x, y = left + _WIDE * reach.at(tick), floor - _HIGH * reach.at(tick)
            body += f'<path class="grid" d="M{left} {y:.1f}H{left + _WIDE}"/>'
            body += text(left - 6, y + 4, f"{tick:g}", "small end") + text(x, floor + 15, f"{tick:g}", "small mid")
        body += f'<path class="zero dashed" d="M{left} {floor}L{left + _WIDE} {_TOP}"/>'
        for row, across, css in zip(rows, sizes, _COLOURS, strict=True):
            places = [
                (left + _WIDE * reach.at(x), floor - _HIGH * reach.at(y))
                for x, y in zip(across, _series(row[quantity]), strict=False)
            ]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            body += f'<g class="{css}"><polyline class="mark" fill="none" points="{line}"/>'
            body += "".join(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places) + "</g>"
    x, y = _LEFT, _TOP + _HIGH + 44
    for row, css in zip(rows, _COLOURS, strict=True):
        body += f'<g class="{css}"><circle class="mark" cx="{x}" cy="{y - 4}" r="4"/></g>'
        body += text(x + 10, y, row["what doubles"])
        x += 30 + 6.7 * len(row["what doubles"])
    return picture(body, _LEFT + 3 * (_WIDE + _APART) - _APART + 24, y + 18, label=f"{title}. {note}", theme=theme)
