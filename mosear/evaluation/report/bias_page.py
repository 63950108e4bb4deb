"""The files of a bias measurement: JSON, figure, page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosear.evaluation.bias import ALL, Direction, verdict
from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.metrics.direction import SIDES
from mosear.evaluation.report.bias_figure import bias_svg, overall
from mosear.evaluation.report.text import template_environment
from mosear.files import written_atomically

COLUMNS = ("face", "voice", "neither", "unread", "text", "direction", "own evidence", "beyond it")


def write_bias(
    directory: Path, systems: Mapping[str, Mapping[str, Direction]], *, clips: str, clustered: bool, n_boot: int
) -> None:
    """Writes ``bias.json``, ``bias.svg`` and ``bias.html``, each atomically.

    Args:
        directory: made if it is not there.
        systems: ``{name: directions(...)}``.
        clips: where the clips come from, in words.
        clustered: whether the bootstrap drew speakers.
        n_boot: its replicates.
    """
    directory.mkdir(parents=True, exist_ok=True)
    sentences = {name: verdict(parts[ALL]) for name, parts in systems.items()}
    drawn = "speakers" if clustered else "clips"
    found = {
        name: {"verdict": sentences[name], "parts": {part: d.as_json() for part, d in parts.items()}}
        for name, parts in systems.items()
    }
    about = {"clips": clips, "bootstrap": {"drawn": drawn, "replicates": n_boot}, "systems": found}
    figure = bias_svg(overall(systems))
    page = template_environment().get_template("bias.html.j2")
    html = page.render(
        figure=figure,
        sentences=sentences,
        sides={name: parts[ALL].side for name, parts in systems.items()},
        columns=COLUMNS,
        groups=[(name, [(part, d.n, cells(d)) for part, d in parts.items()]) for name, parts in systems.items()],
        clips=clips,
        drawn=drawn,
        n_boot=n_boot,
        n=max(parts[ALL].n for parts in systems.values()),
    )
    texts: dict[str, Any] = {"json": json.dumps(about, indent=2, allow_nan=False) + "\n", "svg": figure, "html": html}
    for kind, text in texts.items():
        with written_atomically(directory / f"bias.{kind}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def cells(found: Direction) -> list[tuple[str, str]]:
    """Number and interval per column of :data:`COLUMNS`: shares in per cent, then indices."""
    shares = [_text(found.shares.get(side), 100, "{:.0f}") for side in SIDES]
    text = _text(found.text, 100, "{:.0f}")
    return [*shares, text, *(_text(value, 1, "{:+.2f}") for value in (found.index, found.evidence, found.beyond))]


def _text(interval: Interval | None, factor: float, style: str) -> tuple[str, str]:
    if interval is None:
        return "–", ""
    mean, low, high = (style.format(factor * value).replace("-", "−") for value in interval)
    return mean, f"[{low}, {high}]"
