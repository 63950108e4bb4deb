"""What a closed-set question asks of the clips of a split."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import pyarrow.compute as pc

from mosear.data.prompt import TAGS
from mosear.data.rows import ManifestError

if TYPE_CHECKING:
    from mosear.data.manifest import Manifest


log = logging.getLogger(__name__)

WithoutReason = Literal["refuse", "leave_out"]
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


def with_reasons(manifest: Manifest, without: WithoutReason) -> Manifest:
    """The clips that have a reason to be learned.

    Args:
        manifest: the clips.
        without: ``refuse`` stops where a clip has none; ``leave_out`` says how many there are and goes on.

    Raises:
        ManifestError: for clips without a reason, or with one that holds the tags around it.
    """
    reasons = manifest.column("reason").to_pylist()
    present = [index for index, reason in enumerate(reasons) if reason is not None and reason.strip()]
    absent = len(reasons) - len(present)
    if absent and (without == "refuse" or not present):
        first = next(manifest[i].id for i in range(len(reasons)) if i not in set(present))
        raise ManifestError(
            str(manifest.path),
            [
                f"{absent} of {len(reasons)} clips have no reason, e.g. {first!r}, and answers are to be learned with "
                "one; fill the column reason, set data.without_reason=leave_out, or use data.prompt.answer_format=word"
            ],
        )
    tagged = [index for index in present if any(tag in reasons[index] for tag in TAGS)]
    if tagged:
        raise ManifestError(
            str(manifest.path),
            [
                f"{len(tagged)} reasons hold one of {', '.join(TAGS)}, e.g. that of {manifest[tagged[0]].id!r}; the "
                "tags are written around them, so the column reason must hold the text alone"
            ],
        )
    if not absent:
        return manifest
    log.warning("%d of %d clips of %s have no reason and are left out.", absent, len(reasons), manifest.path)
    return manifest.select(present)
