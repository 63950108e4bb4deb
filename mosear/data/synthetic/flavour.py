"""A corpus of its own that is rendered into a folder: what decides its clips, and the steps that are the same for all.

<root>/clips/<manifest>/<id>.mp4     one file per clip
<root>/<manifest>.parquet            train, val, test; `video` is relative to <root>
<root>/corpus.json                   flavour, seed, sizes, generator hash, counts
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mosear.data.clip import Clip
from mosear.data.synthetic.clips import FPS, SAMPLE_RATE
from mosear.data.synthetic.folder import (
    GENERATOR_MODULES,
    check_arguments,
    check_same_corpus,
    generator_hash,
    read_record,
    render_all,
    write_record,
)
from mosear.data.synthetic.mp4 import write_clip
from mosear.data.synthetic.plans import Group, clip_rngs


class Plan(Protocol):
    """Everything about a clip but its pixels and samples."""

    @property
    def path(self) -> str:
        """The mp4 file, relative to the corpus root."""


Media = tuple[np.ndarray, np.ndarray]
"""Frames uint8 [16, size, size, 3] and waveform float32 [32000] at 16 kHz."""


@dataclass(frozen=True)
class Flavour:
    """One kind of corpus; its functions belong to modules, so that other processes find them.

    Attributes:
        name: Of the flavour; ids of clips begin with it.
        modules: Modules that decide, beside those of every clip, what a clip contains.
        groups: Its cells; those of the test split are subsets, and each is as large as the others.
        plan: What clip number `index` of a group contains, from seed, group and index.
        render: Frames and waveform of a plan, from its random stream and the size of the frames.
        listed: The clip as the manifest lists it.
    """

    name: str
    modules: tuple[str, ...]
    groups: tuple[Group, ...]
    plan: Callable[[int, Group, int], Any]
    render: Callable[[Any, np.random.Generator, int], Media]
    listed: Callable[[Any], Clip]


def groups_of(name: str, test_subsets: tuple[str, ...]) -> tuple[Group, ...]:
    """One group of training and one of validation clips, in which all kinds occur, and one per test subset."""
    mixed = tuple(Group(f"{name}_{split}", split, "all", split) for split in ("train", "val"))
    return (*mixed, *(Group(f"{name}_test_{subset}", "test", subset, "test") for subset in test_subsets))


def ensure(
    flavour: Flavour, root: str | os.PathLike[str], *, seed: int, sizes: dict[str, int], workers: int | None, size: int
) -> Path:
    """Makes sure that the corpus stands complete under `root`, rendering only what is missing.

    Returns at once when it is there. An interrupted run is resumed. Larger counts add clips and leave the old ones
    untouched; smaller ones list fewer clips in the manifests, and their files stay for the next time.

    Args:
        flavour: What kind of corpus.
        root: Folder of the corpus; created if need be.
        seed: Seed of every clip.
        sizes: Clips per group of a split, as `train_clips`, `val_clips` and `test_clips`.
        workers: Rendering processes; all cores by default. Never changes a clip.
        size: Height and width of the frames.

    Returns:
        The root.

    Raises:
        ValueError: Another flavour, seed, frame size or generator made what is under `root`.
    """
    root = Path(root)
    check_arguments(sizes, size, workers)
    generator = generator_hash((*GENERATOR_MODULES, *flavour.modules))
    wanted = {"flavour": flavour.name, "seed": seed, "size": size, "generator": generator, "sizes": sizes}
    found = read_record(root)
    if found is not None:
        check_same_corpus(root, found, wanted)
        if found["complete"] and found["sizes"] == sizes:
            return root
    # Written first: should this run stop halfway, a run with other settings must not take its clips for its own.
    write_record(root, {**wanted, "complete": False})
    tasks = list(_missing(flavour, root, seed, sizes))
    render_all(root, tasks, partial(render_clip, flavour, str(root), seed, size), workers)
    counts = _write_manifests(flavour, root, seed, sizes)
    write_record(root, {**wanted, "complete": True, "counts": counts})
    return root


def _missing(flavour: Flavour, root: Path, seed: int, sizes: Mapping[str, int]) -> Iterator[tuple[Group, int]]:
    """Groups and indices of clips whose file is not there."""
    for group in flavour.groups:
        folder = root / "clips" / group.manifest
        folder.mkdir(parents=True, exist_ok=True)
        present = {entry.name for entry in os.scandir(folder)}
        for index in range(sizes[f"{group.split}_clips"]):
            if Path(flavour.plan(seed, group, index).path).name not in present:
                yield group, index


def render_clip(flavour: Flavour, root: str, seed: int, size: int, task: tuple[Group, int]) -> None:
    """Renders one clip and writes its file."""
    group, index = task
    plan: Plan = flavour.plan(seed, group, index)
    frames, audio = flavour.render(plan, clip_rngs(seed, group, index)[1], size)
    write_clip(Path(root) / plan.path, frames, FPS, audio, SAMPLE_RATE)


def _write_manifests(flavour: Flavour, root: Path, seed: int, sizes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Writes all Parquet files; returns the counts per manifest and subset."""
    from mosear.data.manifest import write_manifest

    listed: dict[str, list[Clip]] = {}
    for group in flavour.groups:
        plans = (flavour.plan(seed, group, index) for index in range(sizes[f"{group.split}_clips"]))
        listed.setdefault(group.manifest, []).extend(flavour.listed(plan) for plan in plans)
    for manifest, clips in listed.items():
        write_manifest(clips, root / f"{manifest}.parquet")
    return {manifest: dict(Counter(clip.subset for clip in clips)) for manifest, clips in listed.items()}
