"""What the user sees of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

LABELS_SHOWN = 12


def print_features(console: Console, about: Mapping[str, Any]) -> None:
    """One table: clips, steps, dimensions, labels, and what was replaced.

    Args:
        console: where to.
        about: the content of ``features.json``.
    """
    from rich.table import Table
    from rich.text import Text

    splits = about["splits"]
    caption = "steps of a modality: shortest - longest (median)"
    table = Table("", *splits, title=f"features, layout {about['layout']}", caption=caption, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("clips", *(f"{split['clips']:,}" for split in splits.values()))
    for name, size in about["modalities"].items():
        lengths = [split["lengths"].get(name) for split in splits.values()]
        table.add_row(f"{name}, size {size:,}", *map(_steps, lengths))
        if any(found and found["absent"] for found in lengths):
            table.add_row(f"clips without {name}", *(f"{found['absent']:,}" if found else "all" for found in lengths))
    table.add_section()
    for field, title in (("text", "transcripts"), ("labels", "label sets"), ("score", "scores"), ("series", "series")):
        if any(split["with"][field] for split in splits.values()):
            table.add_row(title, *(f"{split['with'][field]:,}" for split in splits.values()))
    for kind, title in (("labels", "label"), ("label_sets", "in sets:")):
        for name in about[kind][:LABELS_SHOWN]:
            table.add_row(Text(f"{title} {name}"), *(f"{split[kind].get(name, 0):,}" for split in splits.values()))
        if (more := len(about[kind]) - LABELS_SHOWN) > 0:
            table.add_row(f"... and {more} more", *("" for _ in splits))
    if any(split["replaced"] for split in splits.values()):
        shown = [", ".join(f"{name} {n:,}" for name, n in s["replaced"].items()) or "0" for s in splits.values()]
        table.add_row("not finite, replaced by 0", *shown)
    console.print(table)
    for note in about["notes"]:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    for source in about.get("sources", ()):
        line = f"source: {source['name']}, {source['bytes']:,} bytes, sha256 {source['sha256']}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _steps(found: Mapping[str, int] | None) -> str:
    if found is None:
        return "absent"
    same = found["shortest"] == found["longest"]
    return f"{found['longest']}" if same else f"{found['shortest']} - {found['longest']} ({found['median']})"
