"""What a run would do, said before it does anything: parameters, memory, steps."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mosear.planning.clips import clip_lines
from mosear.planning.fusion import fusion_lines
from mosear.planning.memory import Estimate, estimate, headline, processes_of, table
from mosear.planning.plan import CARDS


def report(cfg: DictConfig) -> None:
    """Print what ``debug=dry`` shows, or what stands in its way."""
    try:
        print(dry_run(cfg))
    except ValueError as error:
        sys.exit(str(error))


def dry_run(cfg: DictConfig) -> str:
    """The report of ``debug=dry`` for a validated config. Nothing is downloaded, rendered or loaded.

    Raises:
        ValueError: if nothing on this machine says how large the backbone is.
    """
    if cfg.get("model") is not None:
        parts = ["\n".join(fusion_lines(cfg)), steps(cfg, processes_of(cfg.trainer)), "\n".join(clip_lines(cfg))]
        return "\n\n".join(part for part in parts if part)
    found = estimate(cfg)
    parts = [headline(found), steps(cfg, found.processes), "\n".join(clip_lines(cfg)), table(found), verdict(found)]
    return "\n\n".join(part for part in parts if part)


def steps(cfg: DictConfig, processes: int) -> str:
    """Optimiser steps of a training; empty for an evaluation."""
    if "resume" not in cfg or "adapter_path" in cfg:
        return ""
    clips = training_clips(cfg)
    if clips is None:
        return f"steps: unknown until {cfg.data.train} is there"
    per_epoch, total = step_counts(cfg.trainer, clips, cfg.data.batch_size, processes)
    window = cfg.data.batch_size * processes * cfg.trainer.accumulate_grad_batches
    return (
        f"steps: {clips} training clips, {window} to an optimiser step ({cfg.data.batch_size} x {processes} "
        f"process(es) x {cfg.trainer.accumulate_grad_batches}): {per_epoch} an epoch, {total} in all"
    )


def step_counts(trainer: DictConfig, clips: int, batch_size: int, processes: int) -> tuple[int, int]:
    """Optimiser steps per epoch and in all, as Lightning counts them.

    Args:
        trainer: ``cfg.trainer``.
        clips: of the training manifest.
        batch_size: per process.
        processes: number of them.
    """
    batches = math.ceil(clips / (batch_size * processes))
    for limit in (trainer.get("limit_train_batches", 1.0), trainer.get("overfit_batches", 0.0) or 1.0):
        # A whole number counts batches, a fraction is a share of them.
        batches = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    total = per_epoch * trainer.max_epochs
    if trainer.max_steps >= 0:
        total = min(total, trainer.max_steps) if trainer.max_epochs >= 0 else trainer.max_steps
    return per_epoch, total


def training_clips(cfg: DictConfig) -> int | None:
    """Clips of the training manifest, of the corpus that would be rendered, or ``None`` if neither is known."""
    path = OmegaConf.select(cfg, "data.train", throw_on_missing=False)
    if path is not None and Path(path).is_file():
        from mosear.data.manifest import load_manifest

        return len(load_manifest(path, root=cfg.data.root))
    prepare = cfg.data.get("prepare")
    return int(prepare.train_clips) if prepare is not None else None


def verdict(found: Estimate) -> str:
    """The smallest card for the config's own trainer, or what to change."""
    name = found.plan.name
    for card in CARDS:
        if found.fits(card):
            return f"trainer={name} fits cards of {card} GB and more ({found.total() / 2**30:.1f} GiB at the peak)."
    advice = ["trainer=zero3" if found.plan.stage < 3 else "trainer=zero3_offload", "a smaller data.batch_size"]
    if not found.cfg.backbone.get("gradient_checkpointing"):
        advice.insert(0, "backbone.gradient_checkpointing=true")
    return f"trainer={name} needs {found.total() / 2**30:.1f} GiB, more than any card here. Try {', or '.join(advice)}."
