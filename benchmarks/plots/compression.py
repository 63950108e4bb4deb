"""DeepMSI's accuracy over the share of visual tokens that it keeps, from docs/tables/zoo-compression.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks.plots.drawing import picture, text
from benchmarks.plots.tables import read

_LINES = ("consistent", "video aligned", "audio aligned", "contextual")
_COLOURS = ("s1", "s2", "s3", "control")
_WIDE, _HIGH, _LEFT, _TOP = 420, 220, 60, 78
_RATIO = "tokens left (share)"


def compression(page: Path, theme: str) -> str:
    """A line per kind of clip; the right end is the model without compression."""
    table = read(page, (_RATIO, *_LINES))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    title = "What compression of visual tokens costs"
    note = "DeepMSI on the embedded corpus: accuracy in per cent over the share of tokens left"
    body = text(20, 30, title, "title") + text(20, 49, note, "muted")
    floor = _TOP + _HIGH
    lowest = min(float(row[name]) for row in rows for name in _LINES)
    start = 10 * int(lowest // 10)
    for tick in range(start, 101, 10):
        y = floor - _HIGH * (tick - start) / (100 - start)
        body += f'<path class="grid" d="M{_LEFT} {y:.1f}H{_LEFT + _WIDE}"/>'
        body += text(_LEFT - 8, y + 4, str(tick), "small end")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        body += text(_LEFT + _WIDE * share, floor + 16, f"{share:g}", "small mid")
    for name, css in zip(_LINES, _COLOURS, strict=True):
        places = [
            (_LEFT + _WIDE * float(row[_RATIO]), floor - _HIGH * (float(row[name]) - start) / (100 - start))
            for row in rows
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body += f'<g class="{css}"><polyline class="mark" fill="none" points="{line}"/>'
        body += "".join(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places) + "</g>"
        x, y = max(places)
        body += text(x + 12, y + 4, name)
    return picture(body, _LEFT + _WIDE + 120, floor + 34, label=f"{title}. {note}", theme=theme)
