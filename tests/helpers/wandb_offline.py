"""Reads back what an offline W&B run wrote: the records of its ``.wandb`` file.

The file is a log in LevelDB's format: seven bytes of header, then blocks of 32 KiB of chunks, each with a header of a
checksum (4 bytes), a length (2) and a kind (1: whole record, 2, 3, 4: first, middle and last part).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK, CHUNK_HEADER = 7, 32768, 7


def payloads(content: bytes) -> Iterator[bytes]:
    """The records' bytes; a torn record at the end of a killed run is left out."""
    position, parts = HEADER, b""
    while position + CHUNK_HEADER <= len(content):
        left = BLOCK - position % BLOCK
        if left < CHUNK_HEADER:  # too small for a header: padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += CHUNK_HEADER
        if kind == 0 or position + length > len(content):
            return
        chunk = content[position : position + length]
        parts = chunk if kind in (1, 2) else parts + chunk
        position += length
        if kind in (1, 4):
            yield parts


@dataclass
class OfflineRun:
    """One start of a run.

    Attributes:
        directory: ``offline-run-<time>-<id>``.
        id: W&B's id of the run.
        config: ``{key: value}``.
        history: logged rows, in order.
        summary: values that were set on the summary, and the last of each metric.
        artifacts: ``{name: (type, {path in the artifact: digest})}``.
        exit_code: ``None`` if the process was killed.
    """

    directory: Path
    id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    exit_code: int | None = None

    @classmethod
    def read(cls, directory: Path) -> OfflineRun:
        """Read the ``.wandb`` file of an ``offline-run-...`` directory."""
        from wandb.proto.wandb_internal_pb2 import Record

        run = cls(directory)
        (path,) = directory.glob("run-*.wandb")
        for payload in payloads(path.read_bytes()):
            record = Record()
            record.ParseFromString(payload)
            run._take(record)
        return run

    def _take(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            self.id = record.run.run_id
            self.config.update(_items(record.run.config.update))
        elif kind == "config":
            self.config.update(_items(record.config.update))
        elif kind == "history":
            self.history.append(_items(record.history.item))
            self.summary.update(self.history[-1])
        elif kind == "summary":
            self.summary.update(_items(record.summary.update))
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            self._take_artifact(record.request.log_artifact.artifact)
        elif kind == "artifact":
            self._take_artifact(record.artifact)
        elif kind == "exit":
            self.exit_code = record.exit.exit_code

    def _take_artifact(self, artifact: Any) -> None:
        self.artifacts[artifact.name] = (
            artifact.type,
            {entry.path: entry.digest for entry in artifact.manifest.contents},
        )

    def metrics(self) -> set[str]:
        """Names of everything that was logged over steps."""
        return {name for row in self.history for name in row}

    def table(self, name: str) -> dict[str, Any]:
        """A logged table: ``{"columns": [...], "data": [...]}``."""
        path = self.directory / "files" / self.summary[f"{name}/path"]
        return json.loads(path.read_text(encoding="utf-8"))


def offline_runs(run_dir: Path) -> list[OfflineRun]:
    """Every start of a run below a run directory, oldest first."""
    return [OfflineRun.read(path) for path in sorted((run_dir / "wandb").glob("offline-run-*"))]


def _items(items: Any) -> dict[str, Any]:
    found = {}
    for item in items:
        name = item.key or "/".join(item.nested_key)
        found[name] = json.loads(item.value_json)
    return found
