"""Renders the synthetic corpus into a folder: mp4 files, manifests, and a record of how it was made.

<root>/clips/<manifest>/<id>.mp4     one file per clip
<root>/<manifest>.parquet            train_natural, train_voice_dominant, val, test; `video` is relative to <root>
<root>/intensities.parquet           id, visual, audio: cue strengths, for analysis only
<root>/corpus.json                   seed, sizes, generator hash, counts
"""

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosear.data.synthetic.clips import FPS, SAMPLE_RATE, render_clip_arrays
from mosear.data.synthetic.folder import (
    check_arguments,
    check_same_corpus,
    generator_hash,
    read_record,
    render_all,
    write_parquet,
    write_record,
)
from mosear.data.synthetic.mp4 import write_clip
from mosear.data.synthetic.ood import OOD, plan_ood_clip, render_ood_arrays
from mosear.data.synthetic.plans import GROUPS, MANIFESTS, MISSING_SUBSETS, ClipPlan, Group, clip_rngs, plan_clip
from mosear.data.synthetic.reasons import Cues, clip_cues, reason_columns

if TYPE_CHECKING:
    import pyarrow as pa

TRAIN_FLAVOURS = ("natural", "voice_dominant")
OOD_MODULES = ("ood",)
"""Modules that decide, beside those of every clip, what one of the subset `ood` is."""
REASON_MODULES = ("reasons",)
"""Those that decide the reference reasons, which are columns of the manifests."""

Task = tuple[str, int, str, int, int]
"""Root, seed, group name, index, frame size: small enough to send to a worker by the thousand."""

ALL_GROUPS = (*GROUPS, OOD)
_GROUP_BY_NAME = {group.name: group for group in ALL_GROUPS}


def group_size(group: Group, sizes: dict[str, int]) -> int:
    """Clips in a group. Conflict subsets of val are half as large; subsets without a modality are never larger."""
    if group.split == "val" and group.subset != "consistent":
        return sizes["val_clips"] // 2
    if group.subset in MISSING_SUBSETS and "missing_clips" in sizes:
        return min(sizes["missing_clips"], sizes["test_clips"])
    if group is OOD:
        return sizes.get("ood_clips", 0)
    return sizes[f"{group.split}_clips"]


def plan_of(seed: int, group: Group, index: int) -> ClipPlan:
    """What clip number `index` of any group contains."""
    return plan_ood_clip(seed, index) if group is OOD else plan_clip(seed, group, index)


def ensure_corpus(
    root: str | os.PathLike[str],
    seed: int = 0,
    test_clips: int = 300,
    train_clips: int = 1200,
    val_clips: int = 300,
    workers: int | None = None,
    size: int = 112,
    missing_clips: int | None = None,
    train_flavours: Sequence[str] = TRAIN_FLAVOURS,
    ood_clips: int = 0,
) -> Path:
    """Makes sure that the corpus stands complete under `root`, rendering only what is missing.

    Returns at once when it is there. An interrupted run is resumed. Larger counts add clips and leave the old ones
    untouched; smaller ones list fewer clips in the manifests, and their files stay for the next time. Manifests without
    reference reasons (older versions wrote none) get them; nothing is rendered for that.

    Args:
        root: Folder of the corpus; created if need be.
        seed: Seed of every clip.
        test_clips: Clips in each test subset.
        train_clips: Clips in each training flavour.
        val_clips: Consistent validation clips; each validation conflict subset has half as many.
        workers: Rendering processes; all cores by default. Never changes a clip.
        size: Height and width of the frames.
        missing_clips: Clips in each test subset that lacks a modality; None for as many as in the others,
            of which there are never more.
        train_flavours: Of `natural` and `voice_dominant`, which training clips are wanted.
        ood_clips: Clips in the test subset `ood`; 0 for no such subset.

    Returns:
        The root.

    Raises:
        ValueError: Another seed, frame size or generator made what is under `root`.
    """
    root = Path(root)
    sizes = {"train_clips": train_clips, "val_clips": val_clips, "test_clips": test_clips}
    if missing_clips is not None:
        sizes["missing_clips"] = missing_clips
    if ood_clips:
        sizes["ood_clips"] = ood_clips
    _check_flavours(train_flavours)
    check_arguments(sizes, size, workers, none_allowed=("ood_clips",))
    wanted: dict[str, Any] = {"seed": seed, "size": size, "generator": generator_hash(), "sizes": sizes}
    wanted["reasons"] = generator_hash(REASON_MODULES)
    if ood_clips:
        wanted["ood_generator"] = generator_hash(OOD_MODULES)
    flavours = set(train_flavours)
    found = read_record(root)
    if found is not None:
        found.setdefault("train_flavours", list(TRAIN_FLAVOURS))  # older versions rendered both at once
        check_same_corpus(root, found, wanted)
        wanted = {"ood_generator": found["ood_generator"], **wanted} if "ood_generator" in found else wanted
        if found["complete"] and found["sizes"] == sizes:
            flavours |= set(found["train_flavours"])
            if flavours == set(found["train_flavours"]):
                if found.get("reasons") != wanted["reasons"]:
                    _give_reasons(root, found, wanted["reasons"])
                return root
    wanted["train_flavours"] = sorted(flavours)
    manifests = _manifests_of(flavours)
    # Written first: should this run stop halfway, a run with other settings must not take its clips for its own.
    write_record(root, {**wanted, "complete": False})
    render_all(root, list(_missing_tasks(root, seed, sizes, size, manifests)), render_task, workers)
    counts = _write_manifests(root, seed, sizes, manifests)
    write_record(root, {**wanted, "complete": True, "counts": counts})
    return root


def _manifests_of(flavours: Collection[str]) -> list[str]:
    return [name for name in MANIFESTS if name.removeprefix("train_") in flavours or name in ("val", "test")]


def _give_reasons(root: Path, found: dict[str, Any], reasons: str) -> None:
    """Writes the manifests of a complete corpus again, with reasons; its clips are not touched."""
    try:
        _write_manifests(root, found["seed"], found["sizes"], _manifests_of(found["train_flavours"]))
        write_record(root, {**found, "reasons": reasons})
    except OSError as error:
        warnings.warn(
            f"The manifests in {root} have no reference reasons, and cannot be written ({error.strerror}). Runs that "
            "need none go on; for reasons, make the folder writable or render the corpus elsewhere.",
            stacklevel=3,
        )


def _check_flavours(train_flavours: Sequence[str]) -> None:
    if unknown := sorted(set(train_flavours) - set(TRAIN_FLAVOURS)):
        raise ValueError(f"train_flavours has {', '.join(unknown)}; there are {' and '.join(TRAIN_FLAVOURS)}.")


def _missing_tasks(root: Path, seed: int, sizes: dict[str, int], size: int, manifests: Sequence[str]) -> Iterator[Task]:
    for manifest in manifests:
        folder = root / "clips" / manifest
        folder.mkdir(parents=True, exist_ok=True)
        present = {entry.name for entry in os.scandir(folder)}
        for group in ALL_GROUPS:
            if group.manifest == manifest:
                for index in range(group_size(group, sizes)):
                    if Path(plan_of(seed, group, index).path).name not in present:
                        yield str(root), seed, group.name, index, size


def render_task(task: Task) -> None:
    """Renders one clip and writes its file."""
    root, seed, group_name, index, size = task
    group = _GROUP_BY_NAME[group_name]
    plan = plan_of(seed, group, index)
    _, rng = clip_rngs(seed, group, index)
    frames: np.ndarray | None
    audio: np.ndarray | None
    if group is OOD:
        frames, audio = render_ood_arrays(plan, rng, size=size)
    else:
        frames, audio = render_clip_arrays(plan.face, plan.voice, plan.speaker, rng, size=size)
    write_clip(Path(root) / plan.path, frames, FPS, audio, SAMPLE_RATE)


def manifest_row(plan: ClipPlan, cues: Cues | None = None) -> dict[str, Any]:
    """The clip as a manifest lists it; without cues, it lists no reason."""
    return {
        "id": plan.id,
        "video": plan.path if plan.face else None,
        "audio": ("video" if plan.face else plan.path) if plan.voice else None,
        "text": plan.text,
        "label": plan.label,
        "labels": [plan.label],
        "score": None,
        "modality_labels": {
            "visual": plan.face[0] if plan.face else None,
            "audio": plan.voice[0] if plan.voice else None,
            "text": plan.text_label,
        },
        "subset": plan.group.subset,
        "split": plan.group.split,
        "context": [],
        "speaker": plan.speaker.id,
        "missing": list(plan.missing),
        **(reason_columns(cues) if cues is not None else {"reason": None, "cues": None}),
    }


def _manifest_schema() -> "pa.Schema":
    import pyarrow as pa

    modality_labels = pa.struct([(name, pa.string()) for name in ("visual", "audio", "text")])
    return pa.schema(
        [
            *((name, pa.string()) for name in ("id", "video", "audio", "text", "label")),
            ("labels", pa.list_(pa.string())),
            ("score", pa.float64()),
            ("modality_labels", modality_labels),
            *((name, pa.string()) for name in ("subset", "split")),
            ("context", pa.list_(pa.string())),
            ("speaker", pa.string()),
            ("missing", pa.list_(pa.string())),
            *((name, pa.string()) for name in ("reason", "cues")),
        ]
    )


def _write_manifests(
    root: Path, seed: int, sizes: dict[str, int], manifests: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Writes all Parquet files; returns the counts per manifest and subset."""
    import pyarrow as pa

    intensities = []
    counts: dict[str, dict[str, int]] = {}
    for manifest in manifests:
        indexed = [
            (plan_of(seed, group, index), index)
            for group in ALL_GROUPS
            if group.manifest == manifest
            for index in range(group_size(group, sizes))
        ]
        plans = [plan for plan, _ in indexed]
        counts[manifest] = dict(Counter(plan.group.subset for plan in plans))
        rows = [manifest_row(plan, clip_cues(seed, plan, index)) for plan, index in indexed]
        write_parquet(root / f"{manifest}.parquet", rows, _manifest_schema())
        intensities += [
            {
                "id": plan.id,
                "visual": plan.face[1] if plan.face else None,
                "audio": plan.voice[1] if plan.voice else None,
            }
            for plan in plans
        ]
    schema = pa.schema([("id", pa.string()), ("visual", pa.float64()), ("audio", pa.float64())])
    write_parquet(root / "intensities.parquet", intensities, schema)
    return counts
