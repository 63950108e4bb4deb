"""Which checkpoint a run goes on from, and whether it may."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mosear.callbacks.base import run_callbacks
from mosear.callbacks.checkpoint_files import STATE, CheckpointError, Note, complete, read_note, verify
from mosear.config.renamed import in_present_names
from mosear.problems import Problem
from mosear.torchrun import launched_world

if TYPE_CHECKING:
    from mosear.runtime.assemble import Assembly

log = logging.getLogger(__name__)

AUTO = "auto"

FREE = (
    "name", "data_dir", "run_dir", "init_from", "cold_start", "resume", "dry_run", "zero_shot", "answering", "report",
    "benchmark", "logger", "callbacks", "data.train", "data.val", "data.test", "data.root", "data.cache_dir",
    "data.cache_max_gb", "data.num_workers", "data.prepare.root", "data.prepare.workers", "data.prepare.test_clips",
    "data.prepare.missing_clips", "data.prepare.ood_clips", "trainer.default_root_dir", "trainer.devices",
    "trainer.num_nodes", "trainer.limit_test_batches", "trainer.log_every_n_steps", "trainer.profiler",
    "trainer.enable_model_summary", "trainer.enable_progress_bar", "trainer.num_sanity_val_steps",
)  # fmt: skip
"""Keys that may differ on resume: they change neither weights nor the order of clips. Paths may move; that the training
clips are the same, and the number of processes, is checked by their own fingerprints. A resumed run has its
weights, and those it began with, in its checkpoint."""

STRICT = tuple(
    f"callbacks.loss_guard.{name}" for name in ("_target_", "on_bad_loss", "max_skips", "explode_factor", "window")
)
"""Below a free key, but a bad step that is skipped does change the weights."""


@dataclass(frozen=True)
class Resume:
    """A checkpoint that fits this run."""

    directory: Path
    note: Note

    @property
    def state(self) -> Path:
        """What Lightning loads."""
        return self.directory / STATE


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """Everything that training depends on, by dotted key."""

    def walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if _below(key, FREE) and not any(_below(key, (own,)) or own.startswith(f"{key}.") for own in STRICT):
            return
        if isinstance(value, Mapping):
            for name, child in value.items():
                yield from walk(child, f"{key}.{name}" if key else str(name))
        else:
            yield key, value

    return dict(walk(OmegaConf.to_container(cfg, resolve=True), ""))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for each setting that is not the same."""
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)!r} -> {now.get(key, absent)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, absent) != now.get(key, absent)
    ]


def other_settings(
    key: str, value: Any, trained: str | Path, before: Mapping[str, Any], cfg: DictConfig
) -> Iterator[Problem]:
    """What was trained with settings ``before`` cannot be gone on with under others."""
    if changed := differences(before, settings_of(cfg)):
        yield Problem(
            key, value,
            f"{trained} was trained with other settings: {'; '.join(changed[:8])}"
            + (f"; and {len(changed) - 8} more" if len(changed) > 8 else ""),
            "Give the settings of the first start. To train on with others, start a new run.",
        )  # fmt: skip


def checkpoints_directory(cfg: DictConfig) -> Path | None:
    """Where this run's checkpoints go; ``None`` if it writes none."""
    node = (cfg.get("callbacks") or {}).get("checkpoint")
    return None if node is None or node.get("directory") is None else Path(node["directory"])


def find(cfg: DictConfig) -> Resume | None:
    """The checkpoint that ``resume`` means: a directory, or with ``auto`` the newest of this run, if there is one.

    Raises:
        CheckpointError: if it cannot be used.
    """
    if cfg.resume is None:
        return None
    if cfg.resume != AUTO:
        directory = Path(cfg.resume)
        return Resume(directory, read_note(directory))
    root = checkpoints_directory(cfg)
    found = complete(root) if root is not None else []
    return Resume(found[-1], read_note(found[-1])) if found else None


def resume_is_possible(cfg: DictConfig) -> Iterator[Problem]:
    """The checkpoint is there, whole, and of a run with the same settings."""
    if cfg.resume is None:
        return
    if checkpoints_directory(cfg) is None:
        yield Problem(
            "resume", cfg.resume, "this run writes no checkpoints that it could be resumed from",
            "Use callbacks=default, or set callbacks.checkpoint to a mosear.callbacks.ResumableCheckpoint.",
        )  # fmt: skip
        return
    try:
        found = find(cfg)
        if found is None:
            return
        verify(found.directory, found.note)
    except CheckpointError as error:
        yield Problem("resume", cfg.resume, str(error), "See docs/resuming.md.")
        return
    if not cfg.get("dry_run") and found.note.world_size != (world := launched_world()):
        yield Problem(
            "resume", cfg.resume,
            f"{found.directory} was written by {found.note.world_size} process(es), and this run has {world}: batches "
            "would be other ones",
            f"Start {found.note.world_size} process(es) with the same trainer. To train on with {world}, start a new "
            "run.",
        )  # fmt: skip
    yield from other_settings("resume", cfg.resume, found.directory, in_present_names(found.note.settings), cfg)
    if not found.directory.resolve().is_relative_to(Path(cfg.run_dir).resolve()):
        yield Problem(
            "resume", cfg.resume,
            f"it lies outside the run directory {cfg.run_dir}, and log and adapter of its own run are needed as well",
            f"Set hydra.run.dir={found.directory.parent.parent} too, or to a copy of that directory.",
        )  # fmt: skip


def directory_is_fresh(cfg: DictConfig) -> Iterator[Problem]:
    """Of two runs' checkpoints in one directory, the newest by step would stay, whichever run they are of."""
    root = checkpoints_directory(cfg)
    if root is None or cfg.get("dry_run") or not (found := complete(root)):
        return
    yield Problem(
        "resume", cfg.resume,
        f"{root} holds checkpoints of an earlier run (the last: {found[-1].name}), which would be mixed with those of "
        "this one",
        f"Go on with that run: resume=auto. Else give this one a directory of its own (hydra.run.dir=DIR), or delete "
        f"{root}.",
    )  # fmt: skip


def prepare(cfg: DictConfig) -> Resume | None:
    """Find the checkpoint, and say what will happen."""
    found = find(cfg)
    if found is not None:
        state = "finished training" if found.note.finished else "goes on"
        log.info("Resuming from %s: %s at step %d", found.directory, state, found.note.step)
    elif cfg.resume == AUTO:
        log.info(
            "resume=auto: no checkpoint in %s, so training starts afresh. (A run finds its checkpoints if it always "
            "has the same directory, such as hydra.run.dir=outputs/my-run.)",
            checkpoints_directory(cfg),
        )
    return found


def bind(parts: Assembly, found: Resume | None) -> None:
    """Tell the callbacks what this run is, and keep a finished run from training again."""
    for callback in run_callbacks(parts.callbacks):
        callback.on_run_start(settings_of(parts.cfg), None if found is None else (found.directory, found.note))
    if found is not None and found.note.finished:
        # Everything is restored; then there is nothing to do, whatever had ended the training.
        parts.trainer.limit_train_batches = 0


def _below(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
