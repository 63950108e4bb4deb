"""What a run leaves behind: metrics.json, predictions.parquet, report.html, and a table on the terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosear.evaluation.benchmark_metrics import Answers, Scores, benchmark_scores, benchmark_table
from mosear.evaluation.contribution import contribution_table, summarise_contribution
from mosear.evaluation.predictions import PredictionRow, write_predictions
from mosear.evaluation.report import Example, LineChart, write_report
from mosear.evaluation.summary import comparison_table, summarise, write_metrics
from mosear.runtime.loggers import public_config, without_private_parts
from mosear.runtime.wandb_results import publish_to_wandb

if TYPE_CHECKING:
    from rich.table import Table

    from mosear.runtime.assemble import Assembly

Rows = Mapping[str, Sequence[PredictionRow]]
THUMBNAILS = 4
THUMBNAIL_HEIGHT = 112


def publish(parts: Assembly, rows: Rows, info: Mapping[str, Any], charts: Sequence[LineChart] = ()) -> dict[str, Any]:
    """Write every file of the run directory that is about results.

    Args:
        parts: the run.
        rows: predictions by system; the last one is what ``metrics.json`` is about.
        info: what the report says about the run.
        charts: extra charts for the report.

    Returns:
        The content of ``metrics.json`` (on processes other than the first, without numbers).
    """
    if not parts.trainer.is_global_zero:  # every process has all rows; one of them writes
        return {"conflict_mean": None}
    cfg, labels = parts.cfg, list(parts.data.prompt.labels)
    summaries = {
        name: summarise(own, labels, benchmark=cfg.benchmark.name, steering=cfg.steering.name, seed=int(cfg.seed))
        for name, own in rows.items()
    }
    for name, games in parts.contributions.items():
        threshold = cfg.answering.contribution.collapse_threshold
        summaries[name]["contribution"] = summarise_contribution(games, threshold=threshold, seed=int(cfg.seed))
    for name, found in benchmark_numbers(parts, rows).items():
        summaries[name]["benchmark_metrics"] = found
    for name, telemetry in parts.steering.items():
        summaries[name]["steering_telemetry"] = telemetry
    main = next(reversed(summaries))
    metrics = {**summaries[main], "model": main, "run": {k: v for k, v in info.items() if not isinstance(v, Mapping)}}
    if (reference := summaries.get("zero_shot")) is not None and main != "zero_shot":
        shared = ("subsets", "conflict_mean", "gap", "benchmark_metrics", "contribution", "steering_telemetry")
        metrics["zero_shot"] = {key: reference[key] for key in shared if key in reference}
    gate, gate_charts = gate_numbers(parts)
    if gate:
        metrics["gate"] = gate
    write_metrics(metrics, parts.run_dir / "metrics.json")
    write_predictions([row for own in rows.values() for row in own], labels, parts.run_dir / "predictions.parquet")
    shown = examples(parts, rows, cfg.report.examples)
    write_report(
        parts.run_dir / "report.html",
        title=f"{cfg.name}: {cfg.backbone.name} on {cfg.benchmark.name}",
        run_info={**without_private_parts(info), "config": public_config(cfg)},
        summaries=summaries,
        predictions=rows,
        labels=labels,
        examples=shown,
        charts=[*charts, *gate_charts],
    )
    publish_to_wandb(parts, rows, summaries, metrics, shown)
    print_summary(rows, summaries, info, parts.run_dir)
    return metrics


def benchmark_numbers(parts: Assembly, rows: Rows) -> dict[str, dict[str, Scores]]:
    """``{system: {metric: ...}}`` for the metrics of ``benchmark.metrics``; empty without any."""
    benchmark = parts.cfg.benchmark
    if not benchmark.get("metrics"):
        return {}
    clips = {clip.id: clip for clip in parts.data.manifest("test")}
    prompt, levels = parts.data.prompt, dict(benchmark.get("levels") or {})
    return {
        name: benchmark_scores(
            benchmark.metrics,
            Answers(rows=own, labels=prompt.labels, clips=clips, levels=levels, synonyms=prompt.synonyms),
        )
        for name, own in rows.items()
    }


def gate_numbers(parts: Assembly) -> tuple[dict[str, Any], list[LineChart]]:
    """What the gate of a MoSE adapter did, for ``metrics.json`` and as a chart; empty for other adapters."""
    from mosear.callbacks import GateTelemetry

    for callback in parts.callbacks:
        if isinstance(callback, GateTelemetry):
            caption = "Gate weight of each group of experts, mean over layers and clips; 1/3 each means no preference."
            series = callback.series()
            charts = [LineChart(title="Gate", series=series, x_label="step", caption=caption)] if series else []
            return callback.summary(), charts
    return {}, []


def examples(parts: Assembly, rows: Rows, count: int) -> list[Example]:
    """A few clips of every subset with their frames, wrong answers of the last system first within a subset."""
    if count < 1:
        return []
    by_system = [{row.id: row for row in own} for own in rows.values()]
    main = by_system[-1]
    subsets: dict[str, list[PredictionRow]] = {}
    for row in main.values():
        subsets.setdefault(row.subset, []).append(row)
    for own in subsets.values():
        own.sort(key=lambda row: (row.correct, row.id))
    per_subset = max(1, count // len(subsets))
    chosen = [
        row.id for own in subsets.values() for row in [*own[: (per_subset + 1) // 2], *own[::-1][: per_subset // 2]]
    ]
    clips = {clip.id: clip for clip in parts.data.manifest("test")}
    shown = []
    for clip_id in chosen[:count]:
        systems = {name: table[clip_id] for name, table in zip(rows, by_system, strict=True) if clip_id in table}
        shown.append(Example.from_rows(systems, image=film_strip(parts, clips[clip_id])))
    return shown


def film_strip(parts: Assembly, clip: Any) -> bytes | None:
    """A few frames side by side as JPEG; ``None`` if the clip has no usable video."""
    import numpy as np
    from PIL import Image

    from mosear.data.media import MediaBudget, MediaError, decode

    video, _ = parts.data.sources(clip)
    if video is None:
        return None
    try:
        media = decode(video, None, MediaBudget(num_frames=THUMBNAILS, max_pixels=4 * THUMBNAIL_HEIGHT**2))
    except MediaError:
        return None
    assert media.frames is not None
    strip = Image.fromarray(np.concatenate(list(media.frames), axis=1))
    strip = strip.resize((max(1, round(strip.width * THUMBNAIL_HEIGHT / strip.height)), THUMBNAIL_HEIGHT))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def print_summary(
    rows: Rows, summaries: Mapping[str, Mapping[str, Any]], info: Mapping[str, Any], run_dir: Path
) -> None:
    """One table at the end of the run."""
    from rich.console import Console

    console = Console()
    if {"zero_shot", "tuned"} <= set(summaries):
        table = comparison_table(summaries["zero_shot"], summaries["tuned"], rows["zero_shot"], rows["tuned"])
    else:
        table = single_table([*summaries.values()][-1])
    console.print(table)
    if found := [*summaries.values()][-1].get("benchmark_metrics"):
        console.print(benchmark_table(found))
    if contribution := [*summaries.values()][-1].get("contribution"):
        console.print(contribution_table(contribution))
    console.print("   ".join(f"{key}: {value}" for key, value in info.items() if not isinstance(value, Mapping)))
    console.print(f"Report: {run_dir / 'report.html'}", soft_wrap=True)


def single_table(summary: Mapping[str, Any]) -> Table:
    """Accuracy, macro F1 and unparsed answers per subset of one system."""
    from rich.table import Table

    table = Table(title=f"{summary['benchmark']}: accuracy")
    for heading in ("subset", "n", "accuracy (95 %)", "macro F1", "unparsed"):
        table.add_column(heading, justify="left" if heading == "subset" else "right")
    for name, scores in summary["subsets"].items():
        low, high = (100 * value for value in scores["interval"])
        cells = (f"{100 * scores['accuracy']:.1f} [{low:.1f}, {high:.1f}]", f"{100 * scores['macro_f1']:.1f}")
        table.add_row(name.replace("_", " "), str(scores["n"]), *cells, str(scores["unparsed"]))
    for name in ("conflict_mean", "gap"):
        if summary[name] is not None:
            table.add_row(name.replace("_", " "), "", f"{100 * summary[name]:.1f}", "", "")
    return table
