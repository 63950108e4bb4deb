"""What is checked of every imported data set before its manifest is written."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mosear.data.clip import Clip
from mosear.data.sources.base import Row, Source

if TYPE_CHECKING:
    from mosear.data.decode_process import Decoder

Status = Literal["ok", "note", "warning", "error"]
MediaCheck = Literal["headers", "none"]

_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: an ``error`` stops the import, a ``warning`` deserves a look."""

    check: str
    status: Status
    text: str


@dataclass(frozen=True)
class BadFile:
    """A media file that a clip names and that cannot be used."""

    clip_id: str
    path: Path
    cause: str

    def __str__(self) -> str:
        return f"{self.clip_id}: {self.path} ({self.cause})"


def examples(items: Sequence[object]) -> str:
    """The first few items, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:_EXAMPLES])
    return shown + (f" and {len(items) - _EXAMPLES} more" if len(items) > _EXAMPLES else "")


def check_rows(
    rows: Sequence[Row], source: Source, tally: Mapping[str, int], expected: Mapping[str, int]
) -> list[Finding]:
    """Every check that needs no media file."""
    return [
        check_counts(tally, expected),
        check_duplicates(rows),
        check_labels(rows, source),
        *check_leakage(rows, source.disjoint),
    ]


def check_counts(tally: Mapping[str, int], expected: Mapping[str, int]) -> Finding:
    """Compares counts with the published ones. A difference is a warning: you may hold a part of the data."""
    if not expected:
        return Finding("counts", "note", "no published counts to compare with")
    wrong = [f"{key}: expected {count:,}, found {tally.get(key, 0):,}" for key, count in expected.items()]
    wrong = [text for text, (key, count) in zip(wrong, expected.items(), strict=True) if tally.get(key, 0) != count]
    if wrong:
        return Finding(
            "counts", "warning", f"{len(wrong)} of {len(expected)} published counts differ: {'; '.join(wrong)}"
        )
    return Finding("counts", "ok", f"all {len(expected)} published counts match")


def check_duplicates(rows: Sequence[Row]) -> Finding:
    """Ids must be unique; one file under two ids is told."""
    repeated = [name for name, count in Counter(row.clip.id for row in rows).items() if count > 1]
    if repeated:
        return Finding("duplicates", "error", f"{len(repeated)} ids occur more than once: {examples(repeated)}")
    users: dict[tuple[str | None, str | None], list[str]] = defaultdict(list)
    for row in rows:
        # Variants without a modality share the files of their original on purpose.
        if (row.clip.video or row.clip.audio) and not row.clip.missing:
            users[row.clip.video, row.clip.audio].append(row.clip.id)
    shared = [" = ".join(ids) for ids in users.values() if len(ids) > 1]
    if shared:
        return Finding("duplicates", "warning", f"{len(shared)} media files belong to several ids: {examples(shared)}")
    return Finding("duplicates", "ok", "ids and media files are unique")


def check_labels(rows: Sequence[Row], source: Source) -> Finding:
    """Labels must be in the source's set, scores in its range."""
    labels = Counter(row.clip.label for row in rows)
    unlabelled = labels.pop(None, 0)
    unknown = sorted(str(label) for label in labels if source.labels is not None and label not in source.labels)
    if unknown:
        allowed = ", ".join(source.labels or ())
        return Finding("labels", "error", f"labels {examples(unknown)} are not in the label set {allowed}")
    if source.scores is not None:
        low, high = source.scores
        outside = [row.clip.id for row in rows if row.clip.score is not None and not low <= row.clip.score <= high]
        if outside:
            return Finding("labels", "error", f"{len(outside)} scores outside {low:g}..{high:g}: {examples(outside)}")
    absent = sorted(set(source.labels or ()) - {str(label) for label in labels})
    if absent:
        return Finding("labels", "warning", f"no clip is labelled {', '.join(absent)}")
    if unlabelled:
        return Finding("labels", "note", f"{unlabelled:,} of {len(rows):,} clips have no single label")
    return Finding("labels", "ok", f"{len(labels)} labels")


def check_leakage(rows: Sequence[Row], disjoint: Sequence[str]) -> list[Finding]:
    """No media file may be in two splits, nor any group of a kind in ``disjoint``; other shared groups are told."""
    findings = []
    kinds = sorted({kind for row in rows for kind in row.groups} | {"speaker"} | set(disjoint))
    for kind in (*kinds, "media file"):
        splits: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            names = [row.group(kind)] if kind != "media file" else [row.clip.video, row.clip.audio]
            for name in names:
                if name is not None and name != "video":
                    splits[name].add(row.clip.split)
        if not splits:
            continue
        shared = [f"{name} ({', '.join(sorted(found))})" for name, found in sorted(splits.items()) if len(found) > 1]
        if not shared:
            if len({row.clip.split for row in rows}) > 1:
                findings.append(Finding("leakage", "ok", f"no {kind} is in two splits"))
            continue
        status: Status = "error" if kind in disjoint or kind == "media file" else "note"
        text = f"{len(shared)} of {len(splits)} {kind}s are in several splits: {examples(shared)}"
        findings.append(Finding("leakage", status, text))
    return findings


def check_files(
    clips: Sequence[Clip], root: Path, how: MediaCheck, advance: Callable[[], object] = lambda: None
) -> list[BadFile]:
    """Finds clips whose media is missing or, with ``headers``, has no readable header or lacks a track that it needs.

    Args:
        clips: What to check; ``advance`` is called once for each.
        root: What their paths are relative to.
        how: ``none`` looks only whether the file is there.
        advance: Called after every clip.
    """
    from mosear.data.decode_process import DecodeProcess

    bad = []
    with DecodeProcess() as decoder:
        for clip in clips:
            for path, needs in _needs(clip):
                cause = _problem(root / path, needs, how, decoder)
                if cause is not None:
                    bad.append(BadFile(clip.id, root / path, cause))
                    break
            advance()
    return bad


def _needs(clip: Clip) -> list[tuple[str, tuple[str, ...]]]:
    if clip.audio == "video":
        assert clip.video is not None
        return [(clip.video, ("video", "audio"))]
    named = ((clip.video, ("video",)), (clip.audio, ("audio",)))
    return [(path, needs) for path, needs in named if path is not None]


def _problem(path: Path, needs: Sequence[str], how: MediaCheck, decoder: Decoder) -> str | None:
    if how == "none":
        return None if path.is_file() else "missing_file"
    from mosear.data.container import MediaError

    try:
        info = decoder.probe(path)
    except MediaError as error:
        return error.cause
    for track, present in (("video", info.has_video), ("audio", info.has_audio)):
        if track in needs and not present:
            return f"no_{track}_track"
    if info.duration is not None and info.duration <= 0:
        return "zero_length"
    return None


def check_same_content(rows: Sequence[Row], root: Path) -> Finding:
    """Finds byte-identical media under different names; in two splits they are leakage.

    Only files of equal size are read.
    """
    by_size: dict[int, set[str]] = defaultdict(set)
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for path in (row.clip.video, row.clip.audio):
            if path not in (None, "video") and (root / str(path)).is_file():
                by_size[(root / str(path)).stat().st_size].add(str(path))
                splits[str(path)].add(row.clip.split)
    by_content: dict[str, list[str]] = defaultdict(list)
    for paths in by_size.values():
        if len(paths) > 1:
            for path in sorted(paths):
                with open(root / path, "rb") as file:
                    by_content[hashlib.file_digest(file, "blake2b").hexdigest()].append(path)
    same = [paths for paths in by_content.values() if len(paths) > 1]
    leaking = [paths for paths in same if len(set().union(*(splits[path] for path in paths))) > 1]
    if not same:
        return Finding("same content", "ok", "no two files are identical")
    text = f"{len(same)} sets of identical files, {len(leaking)} across splits: "
    return Finding("same content", "warning", text + examples([" = ".join(paths) for paths in leaking or same]))
