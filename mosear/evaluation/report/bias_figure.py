"""The figure of a bias measurement, as a file of its own and as a part of a page."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup, escape

from mosear.evaluation.bias import ALL, Direction, share_of
from mosear.evaluation.bootstrap import Interval

_LEFT, _WIDE, _RIGHT, _ROW, _TOP = 16.0, 348.0, 16.0, 68.0, 52.0
_NAME_LENGTH = 40
_STYLE = """
svg.bias { --ink: #1d2125; --muted: #616a73; --line: #d5d8d4; --face: #22698c; --voice: #a8721c; --paper: #ffffff;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { svg.bias { --ink: #e6e8ea; --muted: #9ba4ad; --line: #343b42; --face: #5db0d8;
  --voice: #d9a54f; --paper: #1b1f23; } }
svg.bias .paper { fill: var(--paper); } svg.bias text { fill: var(--ink); font-size: 13px; }
svg.bias .soft { fill: var(--muted); font-size: 11.5px; } svg.bias .strong { font-weight: 650; }
svg.bias .grid { stroke: var(--line); } svg.bias .zero { stroke: var(--muted); }
svg.bias .face { fill: var(--face); } svg.bias .voice { fill: var(--voice); } svg.bias .open { fill: var(--muted); }
svg.bias .whisker { stroke: var(--ink); stroke-width: 1.5; }
svg.bias .evidence { stroke: var(--ink); stroke-width: 1.4; fill: var(--paper); }
"""


def bias_svg(systems: Mapping[str, Direction]) -> Markup:
    """One row per system: bar and whisker for the answers' direction, a diamond for that of the system's own evidence.

    Args:
        systems: ``{name: direction over all conflicts}``.
    """
    width, height = _LEFT + _WIDE + _RIGHT, _TOP + _ROW * len(systems) + 58
    label = "; ".join(f"{name}: {_words(found)}" for name, found in systems.items())
    parts = [f'<rect class="paper" width="{width:.0f}" height="{height:.0f}" rx="8"/>']
    parts.append(f'<text x="{_LEFT}" y="26" class="strong">← follows the voice</text>')
    parts.append(f'<text x="{_LEFT + _WIDE}" y="26" class="strong" text-anchor="end">follows the face →</text>')
    bottom = _TOP + _ROW * len(systems)
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        kind = "grid" if tick else "zero"
        parts.append(f'<line class="{kind}" x1="{_x(tick):.1f}" x2="{_x(tick):.1f}" y1="{_TOP - 14}" y2="{bottom}"/>')
        anchor = {-1.0: "start", 1.0: "end"}.get(tick, "middle")
        shown = f"{tick:+g}".replace("-", "−") if tick else "0"
        parts.append(f'<text class="soft" x="{_x(tick):.1f}" y="{bottom + 16}" text-anchor="{anchor}">{shown}</text>')
    for i, (name, found) in enumerate(systems.items()):
        parts.append(_row(name, found, _TOP + _ROW * i))
    for line, told in enumerate(
        ("bar: direction of the answers, with 95 % interval", "diamond: own evidence (late fusion)")
    ):
        parts.append(f'<text class="soft" x="{_LEFT}" y="{bottom + 34 + 15 * line}">{told}</text>')
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}"'
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="bias" {box}><style>{_STYLE}</style>{"".join(parts)}</svg>'
    )


def _x(index: float) -> float:
    return _LEFT + _WIDE * (index + 1) / 2


def _words(found: Direction) -> str:
    """``voice 71 % [68, 74] of 300``."""
    if found.index is None:
        return f"neither on any of {found.n:,} conflicts"
    side = found.side or ("face" if found.index.mean > 0 else "voice")
    mean, low, high = (f"{100 * value:.0f}" for value in share_of(found.index, side))
    return f"{'' if found.side else 'no clear direction, '}{side} {mean} % [{low}, {high}]"


def _row(name: str, found: Direction, top: float) -> str:
    short = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
    parts = [
        f'<text x="{_LEFT}" y="{top + 12}" class="strong"><title>{escape(name)}</title>{escape(short)}</text>',
        f'<text class="soft" x="{_LEFT}" y="{top + 28}">{escape(_words(found))}</text>',
    ]
    middle = top + 45
    if found.index is not None:
        at, zero = _x(found.index.mean), _x(0)
        kind = found.side or "open"
        size = f'x="{min(at, zero):.1f}" y="{middle - 8}" width="{abs(at - zero):.1f}" height="16"'
        parts.append(f'<rect class="{kind}" {size} rx="2"/>{_whisker(found.index, middle)}')
    if found.evidence is not None:
        at = _x(found.evidence.mean)
        parts.append(
            f'<path class="evidence" d="M{at:.1f} {middle - 7} l6 7 l-6 7 l-6 -7 z"><title>own evidence: '
            f"{found.evidence.mean:+.2f} [{found.evidence.low:+.2f}, {found.evidence.high:+.2f}]</title></path>"
        )
    return "".join(parts)


def _whisker(interval: Interval, middle: float) -> str:
    low, high = _x(interval.low), _x(interval.high)
    ends = "".join(
        f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 4}" y2="{middle + 4}"/>' for x in (low, high)
    )
    return f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>{ends}'


def overall(systems: Mapping[str, Mapping[str, Direction]]) -> dict[str, Direction]:
    """What the figure shows: every system over all conflicts."""
    return {name: parts[ALL] for name, parts in systems.items()}
