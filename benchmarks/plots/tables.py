"""Reads Markdown tables: the numbers of every plot come from here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_NUMBER = r"[+\-−]? ?\d[\d,]*\.?\d*(?:e[+-]?\d+)?"
_INTERVAL = re.compile(rf"^\s*({_NUMBER})[^\[(]*[\[(]({_NUMBER})(?:, |-|\.\.)({_NUMBER})[\])]")
_MEAN = re.compile(rf"^\s*({_NUMBER})")
_RULE = re.compile(r"^\|[\s:|-]+\|$")


@dataclass(frozen=True)
class Value:
    """A number of a table, as it stands there.

    Attributes:
        text: the mean as written.
        mean: the mean.
        low, high: its interval; equal to the mean where the table gives none.
    """

    text: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Table:
    """A table without its Markdown: columns and rows of plain text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _number(text: str) -> float:
    return float(text.replace(" ", "").replace(",", "").replace("−", "-"))


def value(cell: str) -> Value | None:
    """The number at the start of a cell with its interval, if there is one; None for a cell without a number."""
    cell = cell.removeprefix("x ")
    mean = _MEAN.match(cell)
    if mean is None:
        return None
    text, middle = mean[1].replace("+ ", "+").replace("- ", "-"), _number(mean[1])
    interval = _INTERVAL.match(cell)
    low, high = (_number(interval[2]), _number(interval[3])) if interval else (middle, middle)
    return Value(text, middle, low, high)


def plain(cell: str) -> str:
    """A cell's text without links and code marks; emphasis stays, it marks the rows that open a group."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell).replace("`", "").strip()


def tables(text: str) -> list[Table]:
    """All tables of a page, in order."""
    found: list[Table] = []
    block: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|") and line.endswith("|"):
            if not _RULE.match(line):
                block.append([plain(cell) for cell in line[1:-1].split("|")])
        elif block:
            found.append(Table(tuple(block[0]), tuple(tuple(row) for row in block[1:])))
            block = []
    return found


def read(page: Path, columns: tuple[str, ...]) -> Table:
    """The first table of a page that has all these columns.

    Raises:
        ValueError: there is none.
    """
    for table in tables(page.read_text(encoding="utf-8")):
        if set(columns) <= set(table.columns):
            return table
    raise ValueError(f"{page} has no table with the columns {', '.join(columns)}: correct them in benchmarks/plots.")
