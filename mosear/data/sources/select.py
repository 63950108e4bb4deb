"""Which of the imported clips a manifest lists, and the variants without a modality."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from mosear.data.conflict_rules import without_modality
from mosear.data.sources.base import Row


def of_split(rows: Sequence[Row], split: str | None) -> list[Row]:
    """The rows of one split, or all.

    Raises:
        ValueError: There is no such row.
    """
    chosen = [row for row in rows if split in (None, row.clip.split)]
    if not chosen:
        has = ", ".join(sorted({row.clip.split for row in rows}))
        raise ValueError(f"--split {split}: no clip is in it; there are clips in {has}")
    return chosen


def at_most_per_subset(rows: Sequence[Row], count: int | None) -> list[Row]:
    """At most ``count`` rows of each subset of each split, drawn by a hash of the id: the same ones everywhere."""
    if count is None:
        return list(rows)
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row.clip.split, row.clip.subset].append(row)
    kept = {id(row) for cell in cells.values() for row in sorted(cell, key=_draw)[:count]}
    return [row for row in rows if id(row) in kept]


def with_missing(rows: Sequence[Row], modalities: Sequence[str]) -> list[Row]:
    """The rows, and after them their test clips without each modality that they have, if anything is left then."""
    made = [
        replace(row, clip=without_modality(row.clip, modality))
        for modality in modalities
        for row in rows
        if row.clip.split == "test" and not row.clip.missing
        if modality in row.clip.present and len(row.clip.present) > 1
    ]
    return [*rows, *made]


def _draw(row: Row) -> str:
    return hashlib.sha256(row.clip.id.encode()).hexdigest()
