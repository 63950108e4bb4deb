"""The two flows: train (tune, then test) and evaluate."""

from __future__ import annotations

import csv
import logging
import time
from typing import Any

from omegaconf import DictConfig

from mosear.callbacks.base import Phase, run_callbacks
from mosear.callbacks.preemption import signals_as_before
from mosear.callbacks.throughput import peak_memory_gb
from mosear.evaluation.report import LineChart
from mosear.loggers.build import closing_runs
from mosear.methods.system import TUNED, ZERO_SHOT
from mosear.runtime import assemble as build
from mosear.runtime import resume
from mosear.runtime.lock import alone_in_run_directory
from mosear.runtime.lost_peers import naming_lost_peers
from mosear.runtime.results import publish

log = logging.getLogger(__name__)


@closing_runs()
@naming_lost_peers()
@alone_in_run_directory
@signals_as_before()
def train(cfg: DictConfig) -> dict[str, Any]:
    """Tune a system, test it and what it was before, publish. Returns the metrics."""
    start = time.perf_counter()
    checkpoint = resume.prepare(cfg)
    parts = build.assemble(cfg)
    resume.bind(parts, checkpoint)
    counts = parts.system.parameter_counts()
    if cfg.zero_shot:
        with parts.system.untuned():
            test(parts, ZERO_SHOT)
    log.info("Tuning")
    tuning_start = time.perf_counter()
    parts.trainer.fit(
        parts.system,
        datamodule=parts.system.data,
        ckpt_path=None if checkpoint is None else str(checkpoint.state),
        weights_only=None if checkpoint is None else True,
    )
    tuning_seconds = time.perf_counter() - tuning_start
    use_saved_weights(parts)
    test(parts, TUNED)
    info = {
        "experiment": cfg.name,
        **parts.system.about(),
        "trainable_parameters": counts["trainable"],
        "frozen_parameters": counts["frozen"],
        "steps": parts.trainer.global_step,
        "tuning_seconds": round(tuning_seconds, 1),
        "total_seconds": round(time.perf_counter() - start, 1),
        **_rates(parts, "trained"),
        "versions": build.versions(),
    }
    return publish(parts, info, _learning_curve(parts))


@closing_runs()
@naming_lost_peers()
@alone_in_run_directory
def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Test a system, with what was tuned of it if that is given. Returns the metrics."""
    start = time.perf_counter()
    parts = build.assemble(cfg)
    if not parts.system.is_tuned:
        test(parts, ZERO_SHOT)
    else:
        if cfg.zero_shot:
            with parts.system.untuned():
                test(parts, ZERO_SHOT)
        test(parts, TUNED)
    info = {
        "experiment": cfg.name,
        **parts.system.about(),
        "adapter": cfg.adapter_path or "none",
        "total_seconds": round(time.perf_counter() - start, 1),
        **_rates(parts, "tested"),
        "versions": build.versions(),
    }
    return publish(parts, info)


def test(parts: build.Assembly, name: str) -> None:
    """Test the system as it is now, under this name."""
    log.info("Testing (%s)", name)
    system = parts.system
    system.run["model"] = name
    parts.trainer.test(system, datamodule=system.data, verbose=False)
    summary, callbacks = dict(system.test_summary()), run_callbacks(parts.callbacks)
    for callback in callbacks:
        summary.update(callback.test_summary())
    tables = [table for callback in callbacks for table in callback.test_tables()]
    parts.tested[name] = build.Tested(list(system.rows), summary, tables)


def use_saved_weights(parts: build.Assembly) -> None:
    """Test what was saved (the best on validation data), so that eval.py finds the same numbers."""
    parts.trainer.strategy.barrier()  # the first process has written it
    for callback in run_callbacks(parts.callbacks):
        if (directory := callback.saved_weights()) is not None:
            parts.system.restore(directory)


def _rates(parts: build.Assembly, phase: Phase) -> dict[str, float]:
    found: dict[str, float] = {}
    for callback in run_callbacks(parts.callbacks):
        found.update(callback.rates(phase))
    return found or {"peak_memory_gb": round(peak_memory_gb(), 2)}


def _learning_curve(parts: build.Assembly) -> list[LineChart]:
    """Training and validation loss over steps, from the CSV log when there is one."""
    path = parts.run_dir / "csv" / "metrics.csv"
    if not path.is_file():
        return []
    series: dict[str, list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name in ("train/loss", "val/loss"):
                if row.get(name):
                    series.setdefault(name, []).append((float(row["step"]), float(row[name])))
    if not series:
        return []
    caption = "train/loss: what the method minimises. val/loss: cross-entropy of the right label among the candidates."
    return [LineChart(title="Learning curve", series=series, x_label="step", caption=caption)]
