"""What ``debug=dry`` says about the clips of manifests: texts that are too long, and a sample of media headers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc
from omegaconf import DictConfig

from mosear.data.lengths import CHARACTERS_PER_TOKEN
from mosear.data.media import MediaError, probe

if TYPE_CHECKING:
    from mosear.data.manifest import Manifest

HEADERS = 32
"""Clips of a split whose headers are read."""
NAMED = 3


def clip_lines(cfg: DictConfig) -> list[str]:
    """For every manifest that is there and not rendered: long texts, and bad files among the sample."""
    from mosear.data.manifest import load_manifest

    if cfg.data.get("prepare") is not None:
        return []
    lines = []
    for split in ("train", "val", "test"):
        path = cfg.data.get(split)
        if path is None or not Path(path).is_file():
            continue
        subset = cfg.data.get("val_subset") if split == "val" else None
        manifest = load_manifest(path, root=cfg.data.get("root"), subset=subset)
        lines += [f"{split}: {line}" for line in (*long_texts(manifest, cfg.data.max_tokens), headers(manifest))]
    return lines


def long_texts(manifest: Manifest, max_tokens: int) -> Iterator[str]:
    """Clips whose text alone is about longer than a sequence may be (an estimate: no tokenizer is needed).

    Args:
        manifest: looked at by column, so that a million rows take a moment.
        max_tokens: of a sequence.
    """
    tokens = pc.divide(pc.fill_null(pc.utf8_length(manifest.column("text")), 0), CHARACTERS_PER_TOKEN)
    found = pc.greater(tokens, max_tokens)
    if count := pc.sum(found).as_py() or 0:
        ids, lengths = (column.filter(found).slice(0, NAMED).to_pylist() for column in (manifest.column("id"), tokens))
        named = ", ".join(f"{name!r} (about {length} tokens)" for name, length in zip(ids, lengths, strict=True))
        yield (
            f"the text of {count} clip(s) is longer than data.max_tokens={max_tokens}: {named}. They will be refused; "
            "shorten them or raise data.max_tokens"
        )


def headers(manifest: Manifest) -> str:
    """What the headers of an even sample of clips say."""
    sample = manifest.evenly(HEADERS)
    count, bad = len(sample), []
    for clip in sample:
        for path in manifest.resolve(clip):
            if not isinstance(path, Path):
                continue
            try:
                probe(path)
            except (MediaError, OSError) as error:
                bad.append(f"{clip.id!r}: {error}")
                break
    if not bad:
        return f"the media headers of {count} of {len(manifest)} clips can be read"
    named = "; ".join(bad[:NAMED])
    return f"the media of {len(bad)} of {count} clips looked at ({len(manifest)} in all) cannot be used, e.g. {named}"
