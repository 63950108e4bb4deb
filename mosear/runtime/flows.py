"""The two flows: train (tune, then test) and evaluate."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig
from peft import PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights

from mosear.backbones.partitioned import whole
from mosear.callbacks import AdapterCheckpoint, Preemption, SteeringCallback, Throughput
from mosear.callbacks.preemption import leave_when_asked, signals_as_before
from mosear.callbacks.throughput import peak_memory_gb
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report import LineChart
from mosear.runtime import assemble as build
from mosear.runtime import resume
from mosear.runtime.loggers import closing_runs
from mosear.runtime.lost_peers import naming_lost_peers
from mosear.runtime.results import publish
from mosear.steering.policies.base import Policy
from mosear.steering.settings import policy_as_dict
from mosear.training.module import EmotionTuner

log = logging.getLogger(__name__)


@closing_runs()
@naming_lost_peers()
@signals_as_before()
def train(cfg: DictConfig) -> dict[str, Any]:
    """Tune an adapter, test it and the bare backbone, publish. Returns the metrics."""
    start = time.perf_counter()
    checkpoint = resume.prepare(cfg)
    parts = build.assemble(cfg)
    resume.bind(parts, checkpoint)
    if any(isinstance(callback, Preemption) for callback in parts.callbacks):
        leave_when_asked()
    network = build.add_adapter(parts.backbone, cfg)
    counts = build.parameter_counts(network, parts.backbone)
    log.info(
        "%s: %s trainable, %s frozen parameters",
        cfg.adapter.get("_target_", "adapter").rsplit(".", 1)[-1],
        build.quantity(counts["trainable"]),
        build.quantity(counts["frozen"]),
    )
    rows: dict[str, list[PredictionRow]] = {}
    if cfg.zero_shot:
        with network.disable_adapter():
            rows["zero_shot"] = test(parts, build.build_tuner(parts, network, "zero_shot"))
    tuner = build.build_tuner(parts, network, "tuned")
    tuning_start = time.perf_counter()
    parts.trainer.fit(
        tuner,
        datamodule=parts.data,
        ckpt_path=None if checkpoint is None else str(checkpoint.state),
        weights_only=None if checkpoint is None else True,
    )
    tuning_seconds = time.perf_counter() - tuning_start
    use_saved_adapter(parts, network)
    rows["tuned"] = test(parts, tuner)
    info = {
        "experiment": cfg.name,
        "backbone": cfg.backbone.name,
        "trainable_parameters": counts["trainable"],
        "frozen_parameters": counts["frozen"],
        "steps": parts.trainer.global_step,
        "tuning_seconds": round(tuning_seconds, 1),
        "total_seconds": round(time.perf_counter() - start, 1),
        **_rates(parts, "trained"),
        "versions": build.versions(),
    }
    return publish(parts, rows, info, _learning_curve(parts))


@closing_runs()
@naming_lost_peers()
def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Test a backbone, with the adapter of ``adapter_path`` if one is given. Returns the metrics."""
    start = time.perf_counter()
    parts = build.assemble(cfg)
    network: torch.nn.Module = parts.backbone.model
    name = "zero_shot"
    rows: dict[str, list[PredictionRow]] = {}
    if cfg.adapter_path is not None:
        network, name = build.load_adapter(parts.backbone, cfg.adapter_path), "tuned"
    if name == "tuned" and cfg.zero_shot:
        assert isinstance(network, PeftModel)
        with network.disable_adapter():
            rows["zero_shot"] = test(parts, build.build_tuner(parts, network, "zero_shot"))
    rows[name] = test(parts, build.build_tuner(parts, network, name))
    info = {
        "experiment": cfg.name,
        "backbone": cfg.backbone.name,
        "adapter": cfg.adapter_path or "none",
        "total_seconds": round(time.perf_counter() - start, 1),
        **_rates(parts, "tested"),
        "versions": build.versions(),
    }
    return publish(parts, rows, info)


def test(parts: build.Assembly, tuner: EmotionTuner) -> list[PredictionRow]:
    """Predictions for the test split, in the manifest's order."""
    log.info("Testing (%s)", tuner.run["model"])
    parts.trainer.test(tuner, datamodule=parts.data, verbose=False)
    if tuner.contributions:
        parts.contributions[tuner.run["model"]] = tuner.contributions
    for callback in parts.callbacks:
        if isinstance(callback, SteeringCallback):
            parts.steering[tuner.run["model"]] = {
                "policy": _described(callback.policy),
                **callback.telemetry.summary(),
            }
    order = {clip.id: index for index, clip in enumerate(parts.data.manifest("test"))}
    return sorted(tuner.rows, key=lambda row: order[row.id])


def _described(policy: Policy) -> dict[str, Any] | str:
    """What to write about a policy; parts of a user's own need not be JSON."""
    try:
        return policy_as_dict(policy)
    except ValueError:
        return repr(policy)


def use_saved_adapter(parts: build.Assembly, network: PeftModel) -> None:
    """Test what was saved (the best on validation data), so that eval.py finds the same numbers."""
    parts.trainer.strategy.barrier()  # the first process has written it
    for callback in parts.callbacks:
        if isinstance(callback, AdapterCheckpoint) and Path(callback.directory).exists():
            with whole((p for p in network.parameters() if p.requires_grad), changed=True):
                set_peft_model_state_dict(network, load_peft_weights(str(callback.directory), device="cpu"))


def _rates(parts: build.Assembly, phase: Literal["trained", "tested"]) -> dict[str, float]:
    found = [getattr(callback, phase) for callback in parts.callbacks if isinstance(callback, Throughput)]
    return found[0].rates() if found else {"peak_memory_gb": round(peak_memory_gb(), 2)}


def _learning_curve(parts: build.Assembly) -> list[LineChart]:
    """Training and validation loss over steps, from the CSV log when there is one."""
    import csv

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
    caption = "Cross-entropy of the answer tokens in training; of the right label among the candidates in validation."
    return [LineChart(title="Learning curve", series=series, x_label="step", caption=caption)]
