"""Manifests: one row per clip, in Parquet or JSONL, checked as a whole before anything runs.

A manifest is read from start to end (encoding, columns, ids, paths, values); all mistakes are reported in one error.
Small files then become an in-memory Arrow table behind a Hugging Face `Dataset`, which leaves nothing on disk. Large
ones go through `datasets.load_dataset`, which converts them once to memory-mapped Arrow files in the Hugging Face
cache, so that many workers share one copy.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import pyarrow as pa
import pyarrow.parquet as pq

from mosear.data.clip import COLUMNS, Clip, describe_columns
from mosear.data.columns import sound_table
from mosear.data.rows import ManifestError, manifest_kind, read_rows
from mosear.files import sha256_of, written_atomically

if TYPE_CHECKING:
    from datasets import Dataset

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("video", pa.string()),
        ("audio", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("score", pa.float64()),
        ("modality_labels", pa.struct([("visual", pa.string()), ("audio", pa.string()), ("text", pa.string())])),
        ("subset", pa.string()),
        ("split", pa.string()),
        ("context", pa.list_(pa.string())),
        ("speaker", pa.string()),
        ("missing", pa.list_(pa.string())),
        ("reason", pa.string()),
        ("cues", pa.string()),
        ("series", pa.string()),
    ]
)
assert tuple(SCHEMA.names) == COLUMNS

IN_MEMORY_BYTES = 64 * 2**20  # files up to this size are held in memory instead of being copied into the cache


class Manifest(Sequence[Clip]):
    """A checked, immutable sequence of clips.

    Attributes:
        path: The manifest file.
        root: The directory that media paths are relative to, resolved.
        fingerprint: SHA-256 of the whole file (the same for every selection from it).
        dataset: The rows as a Hugging Face `Dataset`.
    """

    def __init__(self, dataset: Dataset, path: Path, root: Path, fingerprint: str) -> None:
        self.dataset, self.path, self.root, self.fingerprint = dataset, path, root, fingerprint
        self._root = _Root(root)

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Clip | Manifest:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return Clip.from_row(self.dataset[range(len(self))[index]])

    def __iter__(self) -> Iterator[Clip]:
        return map(Clip.from_row, self.dataset)

    def __repr__(self) -> str:
        return f"Manifest({len(self)} clips of {self.path})"

    def labels(self) -> list[str]:
        """The distinct values of ``label``, sorted; ``labels``, which may be an open vocabulary, does not count."""
        return sorted(set(self.column("label").unique().to_pylist()) - {None})

    def unlabelled(self) -> list[str]:
        """Ids of the clips without a ``label``."""
        return list(self.column("id").filter(self.column("label").is_null()).to_pylist())

    def column(self, name: str) -> pa.ChunkedArray:
        """One column as it is stored: a million rows are looked at in no time."""
        return self.dataset.with_format("arrow")[name][:]

    def select(self, indices: Iterable[int]) -> Manifest:
        """The clips at these positions, in this order."""
        return Manifest(self.dataset.select(list(indices)), self.path, self.root, self.fingerprint)

    def evenly(self, limit: int | None) -> Manifest:
        """So many clips, evenly spread; all of them without a limit."""
        count = min(limit or len(self), len(self))
        return self.select(i * len(self) // count for i in range(count))

    def filter(self, keep: Callable[[Clip], bool]) -> Manifest:
        """The clips for which ``keep`` is true."""
        # Not `Dataset.filter`, which would write its result into the cache.
        return self.select(index for index, clip in enumerate(self) if keep(clip))

    def resolve(self, clip: Clip) -> tuple[Path | None, Path | Literal["video"] | None]:
        """The clip's (video, audio) as absolute paths below the root; ``"video"`` (the own track) stays."""
        return self._root.resolve(clip)

    def check_files(self) -> list[str]:
        """Lists every media file that is not there, as "clip id: path"."""
        missing = []
        for clip in self:
            files = [path for path in self.resolve(clip) if isinstance(path, Path)]
            missing += [f"{clip.id}: {path}" for path in files if not path.is_file()]
        return missing

    def matching(self, split: str | None, subset: str | None) -> Manifest:
        """The clips of a split and a subset (None: any). None at all is an error: nearly always a typo."""
        wanted = {name: value for name, value in (("split", split), ("subset", subset)) if value is not None}
        if not wanted:
            return self
        columns = [self.column(name).to_pylist() for name in wanted]
        indices = [i for i, row in enumerate(zip(*columns, strict=True)) if row == tuple(wanted.values())]
        if not indices:
            has = "; ".join(
                f"{name}: {', '.join(map(repr, sorted(set(self.column(name).to_pylist()))))}" for name in wanted
            )
            asked = " and ".join(f"{name}={value!r}" for name, value in wanted.items())
            raise ManifestError(str(self.path), [f"no clip has {asked} (the manifest has {has})"])
        return self.select(indices)


def load_manifest(
    path: str | Path,
    *,
    split: str | None = None,
    subset: str | None = None,
    root: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Manifest:
    """Opens a manifest and checks all of it.

    Args:
        path: A ``.parquet`` or ``.jsonl`` file with columns of `COLUMNS`, at least the `REQUIRED` ones.
        split: Keep the clips of this split.
        subset: Keep the clips of this subset.
        root: Directory that media paths are relative to. Default: the manifest's own.
        cache_dir: Where large manifests are converted to Arrow. Default: the Hugging Face cache.

    Raises:
        ManifestError: With every problem: columns, duplicate ids, paths out of the root, bad values, encoding.
    """
    path = Path(path).absolute()
    manifest_kind(path)
    if not path.is_file():
        raise ManifestError(str(path), ["no such file"])
    root = Path(root if root is not None else path.parent).resolve()
    fingerprint = sha256_of(path)
    table = sound_table(path, SCHEMA, str(root))
    if table is None:
        checker = _RowChecker(root)
        for where, row in read_rows(path):
            checker.check(where, row)
        checker.raise_problems(path)
    return Manifest(_dataset(path, table, cache_dir), path, root, fingerprint).matching(split, subset)


def write_manifest(clips: Iterable[Clip], path: str | Path) -> Path:
    """Writes clips as Parquet or JSONL (by the suffix). The file appears whole or not at all."""
    path = Path(path)
    kind = manifest_kind(path)
    rows = [clip.to_row() for clip in clips]
    repeated = sorted(name for name, count in Counter(row["id"] for row in rows).items() if count > 1)
    if repeated:
        raise ManifestError(str(path), [f"duplicate id {name!r}" for name in repeated])
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as temporary, temporary.open("wb") as file:
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    return path


def _dataset(path: Path, table: pa.Table | None, cache_dir: str | Path | None) -> Dataset:
    """The rows of a checked manifest as a Hugging Face dataset; see the module's text for the two ways."""
    from datasets import Dataset, Features, load_dataset
    from datasets.table import InMemoryTable

    if path.stat().st_size <= IN_MEMORY_BYTES:
        if table is None:
            rows = [Clip.from_row(row).to_row() for _, row in read_rows(path)]
            table = pa.Table.from_pylist(rows, SCHEMA)
        return Dataset(InMemoryTable(table))
    return load_dataset(
        manifest_kind(path),
        data_files=[str(path)],
        split="train",
        features=Features.from_arrow_schema(SCHEMA),
        cache_dir=str(cache_dir) if cache_dir is not None else None,
        keep_in_memory=False,
    )


class _Root:
    """Keeps media paths below one directory, symbolic links resolved."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self._directories: dict[
            str, str
        ] = {}  # a corpus has few directories: resolving each once saves most file lookups

    def locate(self, path: str) -> Path:
        """The absolute path, or a `ValueError` if it is not below the root."""
        joined = os.path.join(self.root, path)
        directory, name = os.path.split(joined)
        if directory not in self._directories:
            self._directories[directory] = os.path.realpath(directory)
        real = os.path.join(self._directories[directory], name)
        if name in ("", ".", "..") or os.path.islink(real):
            real = os.path.realpath(joined)
        if os.path.commonpath([self.root, real]) != self.root:
            raise ValueError(f"path {path!r} leads out of the root {self.root} (to {real})")
        return Path(real)

    def resolve(self, clip: Clip) -> tuple[Path | None, Path | Literal["video"] | None]:
        video = self.locate(clip.video) if clip.video is not None else None
        if clip.audio == "video":
            return video, "video"
        return video, self.locate(clip.audio) if clip.audio is not None else None


class _RowChecker:
    """Collects the problems of a manifest's rows."""

    def __init__(self, root: Path) -> None:
        self._root = _Root(root)
        self._first_seen: dict[str, str] = {}
        self._problems: list[str] = []
        self._columns: dict[str, list[str]] = {}

    def check(self, where: str, row: Any) -> None:
        if isinstance(row, ValueError):
            self._problems.append(f"{where}: {row}")
            return
        if not isinstance(row, dict):
            self._problems.append(f"{where}: expected an object with the manifest's columns, got {row!r:.80}")
            return
        wrong_columns = describe_columns(row)
        if wrong_columns:
            self._columns.setdefault(wrong_columns, []).append(where)
        else:
            self._collect(where, lambda: Clip.from_row(row))
        for name in ("video", "audio"):
            path = row.get(name)
            if isinstance(path, str) and path and (name, path) != ("audio", "video"):
                self._collect(where, partial(self._root.locate, path))
        clip_id = row.get("id")
        if isinstance(clip_id, str) and self._first_seen.setdefault(clip_id, where) != where:
            self._problems.append(f"{where}: duplicate id {clip_id!r}, first in {self._first_seen[clip_id]}")

    def raise_problems(self, path: Path) -> None:
        """Raises what was found, if anything; a column problem shared by many rows counts once."""
        columns = [
            f"{rows[0]}{f' and {len(rows) - 1} more' if len(rows) > 1 else ''}: {problem}"
            for problem, rows in self._columns.items()
        ]
        if columns or self._problems:
            raise ManifestError(str(path), columns + self._problems)

    def _collect(self, where: str, attempt: Callable[[], object]) -> None:
        try:
            attempt()
        except ValueError as error:
            self._problems.append(f"{where}: {error}")
