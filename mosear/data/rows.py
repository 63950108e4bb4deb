"""Raw rows of a manifest file, with the place of each for error messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

_PROBLEMS_SHOWN = 20


class ManifestError(ValueError):
    """A manifest cannot be used. ``problems`` holds every problem found; the message shows the first 20."""

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        super().__init__(path, list(problems))  # both in `args`, so that the error can be pickled
        self.path, self.problems = path, list(problems)

    def __str__(self) -> str:
        lines = [f"Manifest {self.path} has {len(self.problems)} problem{'s' * (len(self.problems) != 1)}:"]
        lines += [f"  {problem}" for problem in self.problems[:_PROBLEMS_SHOWN]]
        if len(self.problems) > _PROBLEMS_SHOWN:
            lines.append(f"  ... and {len(self.problems) - _PROBLEMS_SHOWN} more")
        return "\n".join(lines)


def manifest_kind(path: Path) -> Literal["parquet", "json"]:
    kinds: dict[str, Literal["parquet", "json"]] = {".parquet": "parquet", ".jsonl": "json"}
    if path.suffix not in kinds:
        raise ManifestError(str(path), [f"unknown suffix {path.suffix!r}: a manifest is .parquet or .jsonl"])
    return kinds[path.suffix]


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields ("row 7" or "line 7", the row as a dict, or an error if there is no row to read)."""
    return _read_parquet(path) if manifest_kind(path) == "parquet" else _read_jsonl(path)


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            for batch in file.iter_batches(4096):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        yield f"after row {number}", ValueError(f"the Parquet data cannot be read ({error})")


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    row = json.loads(line.decode("utf-8"))
                    if b"\\u" in line:  # half a pair can be written as an escape alone
                        json.dumps(row, ensure_ascii=False).encode()
                    yield f"line {number}", row
            except UnicodeEncodeError as error:
                half = ascii(error.object[error.start])
                yield (
                    f"line {number}",
                    ValueError(f"{half} is half of a surrogate pair; correct the text"),
                )
            except UnicodeDecodeError as error:
                byte, at = line[error.start], offset + error.start
                problem = f"not UTF-8: byte 0x{byte:02x} at byte offset {at} of the file; save the file as UTF-8"
                yield f"line {number}", ValueError(problem)
            except json.JSONDecodeError as error:
                yield f"line {number}", ValueError(f"not JSON ({error})")
            offset += len(line)
