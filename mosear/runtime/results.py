"""What a run leaves behind: metrics.json, predictions.parquet, report.html, and a table on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosear.callbacks.base import RunCallback, run_callbacks
from mosear.evaluation.benchmark_metrics import Answers, benchmark_scores, benchmark_table
from mosear.evaluation.contribution import contribution_table
from mosear.evaluation.kinds import SCORINGS
from mosear.evaluation.predictions import PredictionRow, write_predictions
from mosear.evaluation.report import Example, LineChart, write_report
from mosear.evaluation.report.choice import choose_examples, reason
from mosear.evaluation.report.clip_media import Embedder
from mosear.evaluation.runs import ADAPTER
from mosear.evaluation.summary import comparison_table, summarise, write_metrics
from mosear.files import written_atomically
from mosear.loggers.build import public_config, without_private_parts
from mosear.loggers.wandb_logger import RunDirectoryWandbLogger
from mosear.loggers.wandb_results import Outcome, publish_to_wandb
from mosear.methods.system import TUNED, ZERO_SHOT, System
from mosear.runtime.model_card import write_card

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from rich.table import Table

    from mosear.data.decode_process import Decoder
    from mosear.evaluation.report import Table as ReportTable
    from mosear.runtime.assemble import Assembly

Rows = Mapping[str, Sequence[PredictionRow]]
BENCHMARK = "benchmark_metrics"
MEDIA_MB = 2.0  # for runs whose config does not say it yet
THUMBNAILS = 4
THUMBNAIL_HEIGHT = 112


def publish(parts: Assembly, info: Mapping[str, Any], charts: Sequence[LineChart] = ()) -> dict[str, Any]:
    """Write every file of the run directory that is about results.

    Args:
        parts: the run, tested; the last tested system is what ``metrics.json`` is about.
        info: what the report says about the run.
        charts: extra charts for the report.

    Returns:
        The content of ``metrics.json`` (on processes other than the first, without numbers).
    """
    if not parts.trainer.is_global_zero:  # every process has all rows; one of them writes
        return {"conflict_mean": None}
    cfg, labels = parts.cfg, list(parts.system.labels)
    rows = {name: tested.rows for name, tested in parts.tested.items()}
    summaries = {name: summary_of(parts, name) for name in rows}
    main = next(reversed(summaries))
    metrics = {**summaries[main], "model": main, "run": {k: v for k, v in info.items() if not isinstance(v, Mapping)}}
    if (reference := summaries.get(ZERO_SHOT)) is not None and main != ZERO_SHOT:
        shared = ("subsets", "conflict_mean", "gap", BENCHMARK, *parts.tested[ZERO_SHOT].summary)
        metrics[ZERO_SHOT] = {key: reference[key] for key in shared if key in reference}
    reporters: list[RunCallback | System] = [*run_callbacks(parts.callbacks), parts.system]
    for reporter in reporters:
        metrics.update(reporter.summary())
    write_metrics(metrics, parts.run_dir / "metrics.json")
    if (parts.run_dir / ADAPTER / "adapter_config.json").is_file():
        write_card(parts.run_dir)
    write_predictions([row for own in rows.values() for row in own], labels, parts.run_dir / "predictions.parquet")
    shown = playable(parts, examples(parts, rows, cfg.report.examples))
    write_report(
        parts.run_dir / "report.html",
        title=f"{cfg.name}: {parts.system.title} on {cfg.benchmark.name}",
        run_info={**without_private_parts(info), "config": public_config(cfg)},
        summaries=summaries,
        predictions=rows,
        labels=labels,
        examples=shown,
        examples_note=reason(main),
        charts=[*charts, *(chart for reporter in reporters for chart in reporter.charts())],
        files={name: path for own in run_callbacks(parts.callbacks) for name, path in own.files().items()},
    )
    for table in parts.system.tables():
        write_table(table, parts.run_dir / f"{table.name}.csv")
    tables = [table for reporter in reporters for table in reporter.tables()]
    for name, tested in parts.tested.items():
        tables += [replace(table, name=f"{table.name}/{name}") for table in tested.tables]
    outcome = Outcome(parts.run_dir, parts.system, rows, summaries, metrics, shown, tables)
    publish_to_wandb(parts.trainer.loggers, outcome)
    print_summary(rows, summaries, info, parts.run_dir)
    return metrics


def write_table(table: ReportTable, path: Path) -> None:
    """As CSV, with a row of headings."""
    with written_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows(table.rows)


def summary_of(parts: Assembly, name: str) -> dict[str, Any]:
    """Scores of one tested system, what else its test measured, and the benchmark's own metrics."""
    cfg, tested, system = parts.cfg, parts.tested[name], parts.system
    summary = summarise(
        tested.rows, list(system.labels), benchmark=cfg.benchmark.name, steering=cfg.steering.name, seed=int(cfg.seed)
    )
    summary.update(tested.summary)
    if cfg.benchmark.get("metrics"):
        answers = Answers(
            rows=tested.rows,
            labels=system.labels,
            clips=system.test_clips(),
            levels=dict(cfg.benchmark.get("levels") or {}),
            synonyms=system.synonyms,
        )
        summary[BENCHMARK] = benchmark_scores(cfg.benchmark.metrics, answers)
    return summary


def examples(parts: Assembly, rows: Rows, count: int) -> list[Example]:
    """A few clips of every subset with their frames, wrong answers of the last system first within a subset."""
    clips = parts.system.test_clips() if count > 0 else {}
    if not clips:
        return []
    from mosear.data.decode_process import DecodeProcess

    by_system = [{row.id: row for row in own} for own in rows.values()]
    shown = []
    with DecodeProcess() as decoder:
        for clip_id in choose_examples(list(by_system[-1].values()), count):
            systems = {name: table[clip_id] for name, table in zip(rows, by_system, strict=True) if clip_id in table}
            image = film_strip(parts.system.media(clips[clip_id])[0], decoder)
            shown.append(Example.from_rows(systems, image=image))
    return shown


def playable(parts: Assembly, shown: Sequence[Example]) -> list[Example]:
    """The examples with their media, for as much of them as may be in the report."""
    limit = media_limit(parts.trainer.loggers, float(parts.cfg.report.get("media_mb", MEDIA_MB)))
    embed, clips = Embedder(parts.run_dir, limit), parts.system.test_clips()
    return [replace(example, media=embed(*parts.system.media(clips[example.id]))) for example in shown]


def media_limit(loggers: Sequence[Logger], wanted: float) -> float:
    """Megabytes of clips in the report: none where W&B receives the report but no clips (``logger.wandb.media``)."""
    uploads = [logger for logger in loggers if isinstance(logger, RunDirectoryWandbLogger) and logger.artifacts]
    return wanted if all(logger.media == "clip" for logger in uploads) else 0.0


def film_strip(video: Path | None, decoder: Decoder) -> bytes | None:
    """A few frames side by side as JPEG; ``None`` if there is no usable video."""
    import numpy as np
    from PIL import Image

    from mosear.data.media import MediaBudget, MediaError

    if video is None:
        return None
    try:
        media = decoder.decode(video, None, MediaBudget(num_frames=THUMBNAILS, max_pixels=4 * THUMBNAIL_HEIGHT**2))
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
    if {ZERO_SHOT, TUNED} <= set(summaries):
        table = comparison_table(summaries[ZERO_SHOT], summaries[TUNED], rows[ZERO_SHOT], rows[TUNED])
    else:
        table = single_table([*summaries.values()][-1])
    console.print(table)
    if found := [*summaries.values()][-1].get(BENCHMARK):
        console.print(benchmark_table(found))
    if contribution := [*summaries.values()][-1].get("contribution"):
        console.print(contribution_table(contribution))
    console.print(
        "   ".join(f"{key}: {value}" for key, value in info.items() if not isinstance(value, Mapping)), markup=False
    )
    console.print(f"Report: {run_dir / 'report.html'}", soft_wrap=True, markup=False)


def single_table(summary: Mapping[str, Any]) -> Table:
    """Accuracy, its kind's leading numbers, unparsed answers and, if there are any, quarantined clips per subset."""
    from rich.table import Table
    from rich.text import Text

    brief = SCORINGS[summary["kind"]].brief()
    with_quarantine = any(scores.get("quarantined") for scores in summary["subsets"].values())
    headings = (
        "subset",
        "n",
        "accuracy (95 %)",
        *(number.heading for number in brief),
        "unparsed",
        *(["quarantined"] * with_quarantine),
    )
    table = Table(title=Text(f"{summary['benchmark']}: accuracy", style="table.title"))
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "subset" else "right")
    for name, scores in summary["subsets"].items():
        low, high = (100 * value for value in scores["interval"])
        cells = [
            name.replace("_", " "),
            str(scores["n"]),
            f"{100 * scores['accuracy']:.1f} [{low:.1f}, {high:.1f}]",
            *(number.text(scores[number.key]) for number in brief),
            str(scores["unparsed"]),
            str(scores.get("quarantined", 0)),
        ]
        table.add_row(*map(Text, cells[: len(headings)]))
    for name in ("conflict_mean", "gap"):
        if summary[name] is not None:
            table.add_row(name.replace("_", " "), "", f"{100 * summary[name]:.1f}")
    return table
