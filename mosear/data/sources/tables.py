"""Label tables as they are found in the wild: byte-order marks, Windows newlines, ids that look like numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mosear.data.sources.base import LayoutError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte-order mark.

    Raises:
        LayoutError: It is not UTF-8; the message names line and byte.
    """
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):
        raise LayoutError(f"{path} is a Git LFS pointer, not the table: run `git lfs pull` in its repository")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise LayoutError(
            f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8 (GB18030 and Windows-1252 "
            "are what spreadsheets usually write instead)."
        ) from None


def read_table(path: Path, columns: Sequence[str], *, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a table with a header, every cell as text: ``0001`` stays ``0001``, ``NA`` stays ``NA``.

    Args:
        path: A comma-separated file, quoted where need be.
        columns: Columns that must be there, in any order, among others.
        delimiter: What separates cells.

    Raises:
        LayoutError: A column is missing, or a row has more or fewer cells than the header.
    """
    # Not str.splitlines, which would also break a line at U+0085, an ellipsis in text that was decoded wrongly.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    header = [name.strip() for name in next(reader, [])]
    lacking = [name for name in columns if name not in header]
    if lacking:
        raise LayoutError(
            f"{path}: columns {', '.join(lacking)} are missing.\n  expected: {', '.join(columns)}\n"
            f"  found:    {', '.join(map(repr, header)) or 'an empty file'}"
        )
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise LayoutError(
                f"{path}, line {reader.line_num}: {len(cells)} cells, but the header has {len(header)} "
                f"({', '.join(header)}). Is a cell with a comma left unquoted?"
            )
        rows.append(dict(zip(header, cells, strict=True)))
    return rows


def repaired(text: str) -> str:
    """Undoes the two usual accidents of encoding; other text, curly quotes included, comes back as it is.

    Windows-1252 read as Latin-1 leaves control characters (U+0092 for an apostrophe); UTF-8 read as Windows-1252
    leaves pairs such as "â€™".
    """
    if any("\x80" <= character <= "\x9f" for character in text):
        text = "".join(
            character.encode("latin-1").decode("cp1252", "ignore") if "\x80" <= character <= "\x9f" else character
            for character in text
        )
    if "â€" in text or "Ã" in text:
        try:
            return text.encode("cp1252").decode("utf-8")
        except UnicodeError:
            return text
    return text


def open_set(cell: str) -> tuple[str, ...]:
    """The labels of an open-vocabulary cell such as ``['angry', 'let down']``, ``angry`` or nothing; lower case.

    One leading ``[`` and one trailing ``]`` go; quotes and commas separate; blanks are no labels. (The reading of
    MER2024-OV and later.)
    """
    cell = cell.strip().removeprefix("[").removesuffix("]")
    for quote in "'\"":
        cell = cell.replace(quote, ",")
    return tuple(dict.fromkeys(part for part in (piece.strip().lower() for piece in cell.split(",")) if part))


def number(cell: str, where: str) -> float | None:
    """The number in a cell; None for an empty one, and for nan. A missing score is never replaced by 0.

    Raises:
        LayoutError: It is something else.
    """
    text = cell.strip()
    if not text or text.lower() == "nan":
        return None
    try:
        value = float(text)
    except ValueError:
        raise LayoutError(f"{where}: {cell!r} is not a number") from None
    if value in (float("inf"), float("-inf")):
        raise LayoutError(f"{where}: {cell!r} is not finite")
    return value
