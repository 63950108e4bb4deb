"""The validation clips of a calibration. Nothing here can open a test split: there is no path to one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mosear.backbones.labels import LabelTrie
from mosear.backbones.tiny import EMBEDDED
from mosear.config.shipped import CONF
from mosear.data.batches import split_samples
from mosear.data.manifest import Manifest, load_manifest
from mosear.data.same_media import with_same_media
from mosear.data.sample import Sample
from mosear.evaluation.answering import Answering
from mosear.methods.omni_system import OmniSystem
from mosear.runtime.run import Run

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.datamodule import ClipDataModule

SPLIT = "val"


def backbone_config(backbone: str, manifest: Path | None, overrides: Sequence[str]) -> DictConfig:
    """The config of an evaluation of a bare backbone.

    Args:
        backbone: embedded name, checkpoint directory or hub id.
        manifest: with one, clips that are not synthetic.
        overrides: as for ``eval.py``.

    Raises:
        ValueError: if the config does not know what the overrides say.
    """
    embedded = backbone in EMBEDDED
    group = backbone.replace("-", "_") if embedded else "checkpoint"
    given = [f"backbone={group}", "run_dir=."]
    given += [] if embedded else [f"backbone.name='{backbone}'"]
    given += [] if embedded or manifest is None else ["data=manifest", "data.train=null"]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("eval", overrides=[*given, *overrides])
    except Exception as error:  # hydra has no common base class for what can be wrong with an override
        raise ValueError(f"{' '.join(overrides)}: {error}") from error


def validation_clips(path: Path, *, root: str | None, test: Path | None) -> Manifest:
    """A manifest of which every clip is for validation.

    Args:
        path: the manifest.
        root: of the media of both manifests; ``None`` = each beside its own.
        test: the run's test manifest, to make sure that this is another one; of it only ids and the bytes of media
            files are compared.

    Raises:
        ValueError: naming the clip that is not for validation, or is a test clip.
    """
    manifest = load_manifest(path, root=root)
    for clip in manifest:
        if clip.split != SPLIT:
            raise ValueError(
                f"{path}: clip {clip.id!r} is of split {clip.split!r}. Calibration may see validation clips alone: "
                f"give a manifest in which every clip has split {SPLIT!r}."
            )
    if test is not None and test.is_file():
        other = load_manifest(test, root=root)
        if other.fingerprint == manifest.fingerprint:
            raise ValueError(f"{path} is the run's test manifest ({test}). Calibration may see validation clips alone.")
        if shared := {clip.id for clip in other} & {clip.id for clip in manifest}:
            raise ValueError(
                f"{path}: {len(shared)} clips, such as {min(shared)!r}, are in the run's test manifest ({test}), too. "
                "Calibration may see validation clips alone."
            )
        if pairs := with_same_media(manifest, other):
            (ours, theirs), *_ = pairs
            raise ValueError(
                f"{path}: {len(pairs)} clips have a media file of the run's test manifest ({test}) under another id: "
                f"{ours.id!r} is {theirs.id!r} there. Calibration may see validation clips alone."
            )
    return manifest


@dataclass(frozen=True)
class Clips:
    """What a calibration works with.

    Attributes:
        data: module whose only split is validation.
        trie: the candidate labels.
        samples: prompts with encoded media.
        split_hash: tells which clips they are.
        bad: clips that could not be read.
    """

    data: ClipDataModule
    trie: LabelTrie
    samples: list[Sample]
    split_hash: str
    bad: int


def chosen_clips(run: Run, manifest: Path | None, limit: int | None) -> Manifest:
    """The validation clips to use, spread evenly over the manifest if there is a limit; see :func:`validation_clips`.

    Args:
        run: whose validation clips they are, if no manifest is given (synthetic ones are rendered if needed).
        manifest: of other ones.
        limit: at most so many.

    Raises:
        ValueError: if no manifest is named.
    """
    path = manifest or _path(run.cfg, SPLIT)
    if path is None:
        raise ValueError("No validation manifest: give one with --manifest.")
    if manifest is None:
        run.prepare_clips()
    clips = validation_clips(path, root=run.cfg.data.get("root"), test=_path(run.cfg, "test"))
    return clips.evenly(limit)


def validation_data(run: Run, backbone: OmniBackbone, clips: Manifest, batch_size: int | None) -> ClipDataModule:
    """A data module that has these clips and nothing else."""
    changes: dict[str, Any] = {"train": None, "test": None, SPLIT: str(clips.path)}
    if batch_size is not None:
        changes["eval_batch_size"] = batch_size
    data = run.data(backbone, **changes)
    data.manifest(SPLIT)  # checks the labels
    data.manifests[SPLIT] = clips
    return data


def _path(cfg: DictConfig, split: str) -> Path | None:
    try:
        value = cfg.data.get(split)
    except OmegaConfBaseException:  # refers to a benchmark that is not named
        return None
    return Path(value) if value is not None else None


def read_clips(
    backbone: OmniBackbone,
    network: torch.nn.Module,
    data: ClipDataModule,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Clips:
    """Read and encode every clip once; the encoded media stay in memory.

    Raises:
        ValueError: if no clip can be read, or none has media of its own.
    """
    system = OmniSystem(backbone, network, data, Answering(readings=False))
    manifest, samples, bad = data.manifest(SPLIT), [], []
    for batch in data.eval_loader(SPLIT):
        bad += batch.bad
        if batch.data is not None:
            with torch.no_grad():
                samples += split_samples(system.encoded(batch.to(backbone.device)).to("cpu"))
        on_batch(len(samples) + len(bad), len(manifest))
    if not samples:
        cause = f"bad media: {bad[0].cause}" if bad else "it is empty"
        raise ValueError(f"No clip of {data.paths[SPLIT]} could be read: {cause}.")
    ids = "\n".join(sample.clip.id for sample in samples)
    split_hash = hashlib.sha256(f"{manifest.fingerprint}\n{ids}".encode()).hexdigest()
    return Clips(data, system.trie, samples, split_hash, len(bad))
