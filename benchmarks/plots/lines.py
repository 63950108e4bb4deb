"""Lines over a number: several columns of a table by another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.plots.drawing import picture, text
from benchmarks.plots.tables import read

_COLOURS = ("s1", "s2", "s3", "control")
_WIDE, _HIGH, _LEFT, _TOP = 420, 220, 60, 78


@dataclass(frozen=True)
class Lines:
    """A picture of one table of a page, in per cent over shares between 0 and 1.

    Attributes:
        name: of the file.
        title, note: over the chart.
        page: below ``docs/``.
        across: the column along the horizontal axis.
        panels: columns with a line each, four at most.
    """

    name: str
    title: str
    note: str
    page: str
    across: str
    panels: tuple[str, ...]

    @property
    def find(self) -> tuple[str, ...]:
        """What the table must have beside the lines."""
        return (self.across,)

    def draw(self, docs: Path, theme: str) -> str:
        """The picture as an SVG file."""
        table = read(docs / self.page, (self.across, *self.panels))
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        body, floor = text(20, 30, self.title, "title") + text(20, 49, self.note, "muted"), _TOP + _HIGH
        start = 10 * int(min(float(row[name]) for row in rows for name in self.panels) // 10)

        def place(row: dict[str, str], name: str) -> tuple[float, float]:
            height = _HIGH * (float(row[name]) - start) / (100 - start)
            return _LEFT + _WIDE * float(row[self.across]), floor - height

        for tick in range(start, 101, 10):
            y = floor - _HIGH * (tick - start) / (100 - start)
            body += f'<path class="grid" d="M{_LEFT} {y:.1f}H{_LEFT + _WIDE}"/>'
            body += text(_LEFT - 8, y + 4, str(tick), "small end")
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            body += text(_LEFT + _WIDE * share, floor + 16, f"{share:g}", "small mid")
        for name, css in zip(self.panels, _COLOURS, strict=False):
            places = [place(row, name) for row in rows]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            body += f'<g class="{css}"><polyline class="mark" fill="none" points="{line}"/>'
            body += "".join(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places) + "</g>"
            last = max(rows, key=lambda row: float(row[self.across]))
            x, y = place(last, name)
            body += text(x + 12, y + 4, last[name], "value") + text(x + 48, y + 4, name)
        return picture(body, _LEFT + _WIDE + 150, floor + 34, label=f"{self.title}. {self.note}", theme=theme)
