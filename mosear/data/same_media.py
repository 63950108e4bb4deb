"""Clips of two manifests whose media files have the same content, whatever ids and paths say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mosear.data.clip import Clip
from mosear.data.manifest import Manifest
from mosear.files import content_hash


def with_same_media(ours: Manifest, theirs: Manifest) -> list[tuple[Clip, Clip]]:
    """Pairs of a clip of ours and one of theirs that share a media file; of each clip of ours the first.

    Only files of equal size are read. A file that is not there is like no other.
    """
    by_size: dict[int, list[tuple[Clip, Path]]] = defaultdict(list)
    for clip, path, size in _files(theirs):
        by_size[size].append((clip, path))
    found: dict[str, tuple[Clip, Clip]] = {}
    digests: dict[int, dict[str, Clip]] = {}
    for clip, path, size in _files(ours):
        if clip.id in found or size not in by_size:
            continue
        if size not in digests:
            digests[size] = {content_hash(other): their for their, other in reversed(by_size[size])}
        if (same := digests[size].get(content_hash(path))) is not None:
            found[clip.id] = clip, same
    return list(found.values())


def _files(manifest: Manifest) -> Iterator[tuple[Clip, Path, int]]:
    for clip in manifest:
        for path in manifest.resolve(clip):
            if isinstance(path, Path) and path.is_file():
                yield clip, path, path.stat().st_size
