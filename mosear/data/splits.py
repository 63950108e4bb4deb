"""What a closed-set question asks of the clips of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from mosear.data.rows import ManifestError

if TYPE_CHECKING:
    from mosear.data.manifest import Manifest


NO_CLIPS = "it has no clips; write at least one, or name another manifest"


def check_split(manifest: Manifest, labels: Sequence[str]) -> None:
    """Raises a `ManifestError` with everything that keeps these clips from being trained or tested on."""
    if problems := list(split_problems(manifest, labels)):
        raise ManifestError(str(manifest.path), problems)


def split_problems(manifest: Manifest, labels: Sequence[str]) -> Iterator[str]:
    """One sentence each: no clips, clips without a label, labels that cannot be answered, names with blanks around.

    Args:
        manifest: the clips.
        labels: of the prompt.
    """
    if not len(manifest):
        yield NO_CLIPS
        return
    if unlabelled := manifest.unlabelled():
        yield f"{len(unlabelled)} clips have no label, e.g. {unlabelled[0]!r}; a closed-set question needs one"
    if unknown := sorted(set(manifest.labels()) - set(labels)):
        yield (
            f"labels outside data.prompt.labels: {', '.join(map(repr, unknown))}; labels asked for: "
            f"{', '.join(map(repr, labels))}; extend data.prompt.labels or map the manifest's labels"
        )
    for name in ("subset", "split"):
        values = pc.unique(manifest.column(name)).to_pylist()
        if padded := sorted(value for value in values if value != value.strip()):
            yield f"{name} {', '.join(map(repr, padded))} has blanks around it; remove them"
