"""Manifests that cannot be trained or tested on, found before weights load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from mosear.problems import Problem

if TYPE_CHECKING:
    from mosear.data.manifest import Manifest


def manifests_fit(cfg: DictConfig) -> Iterator[Problem]:
    """Rows, columns, ids and labels of every split that the run will read; rendered corpora are sound."""
    from mosear.data.manifest import load_manifest
    from mosear.data.rows import ManifestError
    from mosear.data.splits import NO_CLIPS, check_split

    rendered = None if cfg.data.get("prepare") is None else Path(cfg.data.prepare.root).absolute()
    for key in ("train", "val", "test") if "resume" in cfg else ("test",):
        path = cfg.data.get(key)
        if path is None or not Path(path).is_file() or rendered in Path(path).absolute().parents:
            continue
        labels = None if key == "test" and _benchmark_asks(cfg) else list(cfg.data.prompt.labels)
        subset = cfg.data.get("val_subset") if key == "val" else None
        try:
            manifest = answered(load_manifest(path, root=cfg.data.get("root"), subset=subset), cfg)
            if labels is not None and cfg.get("task") is not None:
                check_task(manifest, cfg)
            elif labels is not None or not len(manifest):
                check_split(manifest, labels or [])
        except ManifestError as error:
            if labels is None and error.problems != [NO_CLIPS]:
                continue  # its own rule reads this one
            yield Problem(f"data.{key}", path, str(error), "Correct the manifest, or name another one.")


def answered(manifest: Manifest, cfg: DictConfig) -> Manifest:
    """The clips as they are asked for (``data.answer_from``); those of labels that are no numbers as they are."""
    from mosear.data.scores import SCORE, labelled_by_score

    if cfg.data.get("answer_from") != SCORE or next(scores_are_numbers(cfg), None) is not None:
        return manifest
    return labelled_by_score(manifest, list(cfg.data.prompt.labels))


def scores_are_numbers(cfg: DictConfig) -> Iterator[Problem]:
    """Answers that are scores are chosen among numbers."""
    from mosear.data.scores import SCORE, numbers

    if cfg.data.get("answer_from") == SCORE:
        try:
            numbers(list(cfg.data.prompt.labels))
        except ValueError as error:
            yield Problem("data.answer_from", SCORE, str(error), "Correct the labels, or leave the setting out.")


def check_task(manifest: Manifest, cfg: DictConfig) -> None:
    """Raises a ManifestError where clips lack what the task of a fusion model predicts."""
    from mosear.config.benchmark_rules import task_of
    from mosear.data.rows import ManifestError
    from mosear.data.splits import NO_CLIPS

    if (task := task_of(cfg)) is None:
        return
    wrong = [(clip.id, reason) for clip in manifest if (reason := task.problem(clip)) is not None]
    if not len(manifest):
        raise ManifestError(str(manifest.path), [NO_CLIPS])
    if wrong:
        clip, reason = wrong[0]
        told = f"{len(wrong)} of {len(manifest)} clips do not fit task={task.name}, e.g. {clip!r}: {reason}"
        raise ManifestError(str(manifest.path), [told])


def _benchmark_asks(cfg: DictConfig) -> bool:
    """Does :func:`mosear.config.benchmark_rules.benchmark_clips_fit` look at the test clips?"""
    return cfg.benchmark.get("split") is not None or bool(cfg.benchmark.get("metrics"))
