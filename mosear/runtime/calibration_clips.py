"""The validation clips of a calibration. Nothing here can open a test split: there is no path to one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import mosear
from mosear.backbones.tiny import EMBEDDED
from mosear.data.manifest import Manifest, load_manifest
from mosear.data.sample import Sample
from mosear.evaluation.answering import Answering
from mosear.training.batches import split_samples
from mosear.training.module import EmotionTuner
from mosear.training.optim import Tuning

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.datamodule import ClipDataModule

SPLIT = "val"
CONF = Path(mosear.__file__).parents[1] / "conf"


def backbone_config(backbone: str, manifest: Path | None, overrides: Sequence[str]) -> DictConfig:
    """The config of an evaluation of a bare backbone.

    Args:
        backbone: embedded name, checkpoint directory or hub id.
        manifest: with one, clips that are not synthetic.
        overrides: as for ``eval.py``.

    Raises:
        ValueError: if there is no ``conf/``, or it does not know what the overrides say.
    """
    if not CONF.is_dir():
        raise ValueError(f"{CONF} is missing: calibrating a bare backbone reads it. Run from a checkout of mosear.")
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


def adapter_config(adapter: Path, overrides: Sequence[str]) -> DictConfig:
    """The config of the run that trained an adapter."""
    cfg = OmegaConf.merge(OmegaConf.load(adapter.parent / "config.yaml"), OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(cfg, DictConfig)
    return cfg


def validation_clips(path: Path, *, root: str | None, test: Path | None) -> Manifest:
    """A manifest of which every clip is for validation.

    Args:
        path: the manifest.
        root: of its media.
        test: the run's test manifest, to make sure that this is another one; of it only ids are looked at.

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
        other = load_manifest(test)
        if other.fingerprint == manifest.fingerprint:
            raise ValueError(f"{path} is the run's test manifest ({test}). Calibration may see validation clips alone.")
        if shared := {clip.id for clip in other} & {clip.id for clip in manifest}:
            raise ValueError(
                f"{path}: {len(shared)} clips, such as {min(shared)!r}, are in the run's test manifest ({test}), too. "
                "Calibration may see validation clips alone."
            )
    return manifest


@dataclass(frozen=True)
class Clips:
    """What a calibration works with.

    Attributes:
        data: module whose only split is validation.
        tuner: around the backbone, with or without an adapter.
        samples: prompts with encoded media.
        split_hash: tells which clips they are.
        bad: clips that could not be read.
    """

    data: ClipDataModule
    tuner: EmotionTuner
    samples: list[Sample]
    split_hash: str
    bad: int


def validation_path(cfg: DictConfig, manifest: Path | None) -> Path:
    """Where the validation clips are: ``manifest``, or what the config names (synthetic ones are rendered if needed).

    Raises:
        ValueError: if nothing is named.
    """
    path = manifest or _path(cfg, SPLIT)
    if path is None:
        raise ValueError("No validation manifest: give one with --manifest.")
    if manifest is None and cfg.data.get("prepare") is not None:
        instantiate(cfg.data.prepare)()
    return path


def chosen_clips(cfg: DictConfig, path: Path, limit: int | None) -> Manifest:
    """The clips to use, spread evenly over the manifest if there is a limit; see :func:`validation_clips`."""
    clips = validation_clips(path, root=cfg.data.get("root"), test=_path(cfg, "test"))
    count = min(limit or len(clips), len(clips))
    return clips.select(i * len(clips) // count for i in range(count))


def validation_data(cfg: DictConfig, backbone: OmniBackbone, clips: Manifest, batch_size: int | None) -> ClipDataModule:
    """A data module that has these clips and nothing else."""
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.data.update({"train": None, "test": None, SPLIT: str(clips.path), "val_subset": None, "prepare": None})
        if batch_size is not None:
            cfg.data.eval_batch_size = batch_size
    data: ClipDataModule = instantiate(cfg.data, _partial_=True, _convert_="all")(backbone=backbone)
    data.manifest(SPLIT)  # checks the labels
    data.manifests[SPLIT] = clips
    return data


def _path(cfg: DictConfig, split: str) -> Path | None:
    try:
        value = cfg.data.get(split)
    except OmegaConfBaseException:  # refers to a benchmark that nobody has named
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
    tuner = EmotionTuner(backbone, network, data.prompt, Tuning(), Answering(readings=False), cache=data.cache)
    manifest, samples, bad = data.manifest(SPLIT), [], []
    for batch in data.eval_loader(SPLIT):
        bad += batch.bad
        if batch.data is not None:
            with torch.no_grad():
                samples += split_samples(tuner.encoded(batch.to(backbone.device)).to("cpu"))
        on_batch(len(samples) + len(bad), len(manifest))
    if not samples:
        cause = f"bad media: {bad[0].cause}" if bad else "it is empty"
        raise ValueError(f"No clip of {data.paths[SPLIT]} could be read: {cause}.")
    ids = "\n".join(sample.clip.id for sample in samples)
    split_hash = hashlib.sha256(f"{manifest.fingerprint}\n{ids}".encode()).hexdigest()
    return Clips(data, tuner, samples, split_hash, len(bad))
