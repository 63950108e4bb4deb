"""The folder of a rendered corpus: its record, what becomes of one that is there, rendering in several processes."""

import ast
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mosear.files import written_atomically

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

RECORD_NAME = "corpus.json"
GENERATOR_MODULES = ("emotions", "speakers", "faces", "voices", "transcripts", "clips", "plans", "mp4")
"""Modules whose code decides the content of a clip."""
IDENTITY = ("flavour", "seed", "size", "generator", "ood_generator")
"""Entries of a record that say which clips these are."""


def generator_hash(modules: Sequence[str] = GENERATOR_MODULES) -> str:
    """Hash of the code that makes clips; comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for name in modules:
        tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [entry for entry in body if not _is_docstring(entry)]  # type: ignore[attr-defined]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()[:16]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def check_arguments(sizes: Mapping[str, int], size: int, workers: int | None, none_allowed: Sequence[str] = ()) -> None:
    """Raises unless counts, frame size and number of processes can be worked with.

    Args:
        sizes: Clips by name of the argument.
        size: Height and width of the frames.
        workers: Rendering processes, or None.
        none_allowed: Those of `sizes` that may be 0 where users write them; only messages need it.
    """
    for name, count in sizes.items():
        if count < 1:
            raise ValueError(f"{name} must be at least {0 if name in none_allowed else 1}, got {count}.")
    if size < 16 or size % 2:
        raise ValueError(f"size must be an even number of pixels from 16 on (H.264 with 4:2:0 colour), got {size}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, or None for one per core, got {workers}.")


def check_same_corpus(root: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises unless the found clips are the wanted ones; how many there are does not matter."""
    differences = [
        f"{key} {found[key]!r} (wanted {wanted[key]!r})"
        for key in IDENTITY
        if key in found and key in wanted and found[key] != wanted[key]
    ]
    if differences:
        raise ValueError(
            f"The synthetic corpus in {root} was made with another {', '.join(differences)}. Use another root, ask for "
            f"what is there, or delete {root} to render it anew; only the numbers of clips can change in place."
        )


def read_record(root: Path) -> dict[str, Any] | None:
    """What the folder says about its clips; None where nothing was rendered."""
    path = root / RECORD_NAME
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    missing = {"seed", "size", "generator", "sizes", "complete"} - record.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: not written by this tool. Delete it, or move on.")
    return record


def write_record(root: Path, record: Mapping[str, Any]) -> None:
    """Says what the folder's clips are."""
    text = json.dumps(record, indent=2) + "\n"
    _write_atomically(root / RECORD_NAME, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then moves it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as temporary:
        write(temporary)


def write_parquet(path: Path, rows: list[dict[str, Any]], schema: "pa.Schema") -> None:
    """Writes rows as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows, schema=schema)
    _write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def render_all(root: Path, tasks: Sequence[T], render: Callable[[T], object], workers: int | None) -> None:
    """Renders clips with a progress bar.

    Args:
        root: Folder of the corpus, for the bar.
        tasks: One per clip; small enough to send to a worker by the thousand.
        render: Renders one clip and writes its file; a function of a module.
        workers: Processes; None for one per core.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not tasks:
        return
    count = min(workers or os.cpu_count() or 1, len(tasks))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(f"Rendering clips into {root}", total=len(tasks))
        if count == 1:
            for task in tasks:
                render(task)
                progress.advance(bar)
            return
        # Spawned, not forked: the caller may hold threads or a CUDA context.
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            for _ in pool.imap_unordered(render, tasks, chunksize=8):
                progress.advance(bar)
