"""What the user sees of an import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mosear.data.sources.base import Reading, Row, Source
from mosear.data.sources.checks import BadFile, Finding, examples

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def description(source: Source) -> str:
    """An importer in a few lines: what it is, its terms, its tree and its options."""
    options = []
    if source.folds:
        options.append(f"--fold 1..{source.folds}")
    if source.rules:
        default = f" (default: {source.rules[0]})" if source.default_rule else ""
        options.append(f"--rule {'|'.join(source.rules)}{default}")
    if source.votes:
        options.append("--min-agreement SHARE")
    if source.languages:
        options.append("--language original|english")
    if source.emotions:
        options.append("--emotions [CSV]")
    mark = "" if source.verified else "  [adapter to an UNVERIFIED layout]"
    lines = [f"{source.name}: {source.title}{mark}", f"  licence: {source.licence}", f"  evidence: {source.evidence}"]
    if options:
        lines.append(f"  options: {'  '.join(options)}")
    return "\n".join([*lines, "  tree:", *(f"    {line}" for line in source.layout.splitlines()), ""])


def print_summary(
    console: Console,
    source: Source,
    reading: Reading,
    rows: Sequence[Row],
    findings: Sequence[Finding],
    bad: Sequence[BadFile],
) -> None:
    """One table: how many clips of which label each split and subset has, and how the checks came out."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", "clips", "", title=f"{source.name}: {source.title}", title_justify="left")
    table.columns[1].justify = "right"
    for (split, subset), labels in _cells(rows).items():
        named = [(label, count) for label, count in labels.most_common() if label is not None]
        text = ", ".join(f"{label} {count:,}" for label, count in named)
        table.add_row(Text(f"{split} / {subset}"), f"{labels.total():,}", Text(text))
    table.add_row("total", f"{len(rows):,}", "")
    table.add_section()
    for reason, ids in reading.dropped.items():
        table.add_row("left out", f"{len(ids):,}", Text(f"{reason}: {examples(ids)}"))
    for cause, count in Counter(file.cause for file in bad).most_common():
        ids = [file.clip_id for file in bad if file.cause == cause]
        table.add_row("unusable media", f"{count:,}", Text(f"{cause}: {examples(ids)}"))
    table.add_section()
    for found in findings:
        table.add_row(found.check, Text(found.status, _STYLES[found.status]), Text(found.text))
    for note in reading.notes:
        table.add_row("note", "", Text(note))
    if not source.verified:
        table.add_row("note", "", Text(f"Adapter to an unverified layout: {source.evidence}."))
    console.print(table)


def _cells(rows: Sequence[Row]) -> dict[tuple[str, str], Counter[str | None]]:
    order = {"train": 0, "val": 1, "test": 2}
    cells: dict[tuple[str, str], Counter[str | None]] = {}
    for row in sorted(rows, key=lambda row: (order[row.clip.split], row.clip.subset)):
        cells.setdefault((row.clip.split, row.clip.subset), Counter())[row.clip.label] += 1
    return cells
