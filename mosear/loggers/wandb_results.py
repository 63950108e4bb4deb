"""What W&B gets at the end of a run: scores, confusion matrices, tables, example clips, and two artifacts."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosear.evaluation.summary import by_subset
from mosear.loggers.wandb_logger import RunDirectoryWandbLogger
from mosear.roles import SHOWN

if TYPE_CHECKING:
    from mosear.evaluation.predictions import PredictionRow
    from mosear.evaluation.report import Example, Table
    from mosear.methods.system import System

UNPARSED = "unparsed"
REPORT_FILES = ("report.html", "metrics.json", "predictions.parquet")


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        run_dir: its files.
        system: what was tested.
        rows: predictions by name of the tested system.
        summaries: scores likewise.
        metrics: the content of ``metrics.json``.
        shown: the example clips of the report.
        tables: what callbacks counted.
    """

    run_dir: Path
    system: System
    rows: Mapping[str, Sequence[PredictionRow]]
    summaries: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Any]
    shown: Sequence[Example]
    tables: Sequence[Table]


def publish_to_wandb(loggers: Sequence[Any], outcome: Outcome) -> None:
    """Log the results to every W&B logger of the run (there is mostly none, and then W&B is not imported)."""
    for logger in loggers:
        if not isinstance(logger, RunDirectoryWandbLogger):
            continue
        run, labels = logger.experiment, outcome.system.labels
        run.summary.update(dict(scores(outcome.summaries)))
        media = {
            "test/subsets": subset_table(outcome.summaries),
            **{f"confusion/{name}": chart for name, chart in confusion_matrices(outcome.rows, labels)},
            **{table.name: plain_table(table) for table in outcome.tables},
        }
        if outcome.shown:
            media["examples"] = example_table(outcome, labels, logger.media)
        run.log(media)
        if logger.artifacts:
            log_artifacts(outcome, run)


def plain_table(table: Table) -> Any:
    """As W&B shows it."""
    import wandb

    return wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])


def scores(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """``test/<system>/<subset>/<score>``, the conflict mean and the gap, the benchmark's own metrics, the controls."""
    for system, summary in summaries.items():
        for subset, values in summary["subsets"].items():
            for name, value in _numbers(values).items():
                yield f"test/{system}/{subset}/{name}", value
        for name in ("conflict_mean", "gap"):
            if summary[name] is not None:
                yield f"test/{system}/{name}", summary[name]
        for metric, parts in summary.get("benchmark_metrics", {}).items():
            for part, values in parts.items():
                for name, value in _numbers(values).items():
                    yield f"benchmark/{system}/{metric}/{part}/{name}", value
        for control, values in summary["controls"].items():
            for name, value in values.items():
                yield f"test/{system}/{control}/{name}", value


def subset_table(summaries: Mapping[str, Mapping[str, Any]]) -> Any:
    """One row per system and subset, with the interval of the accuracy."""
    import wandb

    first = next(iter(next(iter(summaries.values()))["subsets"].values()))
    names = list(_numbers(first))
    table = wandb.Table(columns=["system", "subset", *names, "low", "high"])
    for system, summary in summaries.items():
        for subset, values in summary["subsets"].items():
            table.add_data(system, subset, *(values[name] for name in names), *values["interval"])
    return table


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def confusion_matrices(rows: Mapping[str, Sequence[PredictionRow]], labels: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """``(<system>/<subset>, chart)``; answers that could not be read are a column of their own.

    Sets of labels have none.
    """
    import wandb

    names = [*labels, UNPARSED]
    for system, own in rows.items():
        if any(row.labels is not None for row in own):
            continue
        for subset, group in by_subset(own).items():
            chart = wandb.plot.confusion_matrix(
                y_true=[names.index(row.label) for row in group],
                preds=[names.index(row.prediction or UNPARSED) for row in group],
                class_names=names,
                title=f"{system}, {subset}",
            )
            yield f"{system}/{subset}", chart


def example_table(outcome: Outcome, labels: Sequence[str], media: str) -> Any:
    """One row per example clip: what it shows, what each system answered, and what each modality says alone."""
    import wandb

    shown = outcome.shown
    systems = list(shown[0].predictions)
    pictures = {"none": [], "frames": ["frames"], "clip": ["frames", "clip"]}[media]
    columns: list[str | int] = [
        "id",
        "subset",
        *pictures,
        "text",
        "label",
        *systems,
        *(f"{name} alone" for name in SHOWN),
    ]
    table = wandb.Table(columns=columns)
    clips = outcome.system.test_clips()
    for example in shown:
        found: dict[str, Any] = {"frames": None if example.image is None else wandb.Image(_opened(example.image))}
        if media == "clip":
            video = outcome.system.media(clips[example.id])[0]
            playable = video is not None and video.suffix.removeprefix(".") in wandb.Video.EXTS
            found["clip"] = wandb.Video(str(video)) if playable else None
        answers = [_answer(example, name) for name in systems]
        alone = [_likeliest(example.readings.get(name), labels) for name in SHOWN]
        shows = [found[name] for name in pictures]
        table.add_data(example.id, example.subset, *shows, example.text, _truth(example), *answers, *alone)
    return table


def _answer(example: Example, system: str) -> str:
    """In words, and a predicted score behind its class."""
    row = example.rows.get(system)
    score = "" if row is None or row.predicted_score is None else f" ({row.predicted_score:.3f})"
    return (example.predictions.get(system) or UNPARSED) + score


def _truth(example: Example) -> str:
    scores = [row.score for row in example.rows.values() if row.score is not None]
    return f"{example.label} ({scores[0]:.3f})" if scores else example.label


def _opened(image: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(image))


def _likeliest(distribution: Sequence[float] | None, labels: Sequence[str]) -> str | None:
    return None if distribution is None else labels[max(range(len(labels)), key=distribution.__getitem__)]


def log_artifacts(outcome: Outcome, run: Any) -> None:
    """``report-<id>`` (page, metrics, predictions), and after training ``adapter-<id>`` (a directory PEFT can load)."""
    import wandb

    metrics = outcome.metrics
    about = {"experiment": metrics["run"]["experiment"], **outcome.system.about(), "benchmark": metrics["benchmark"]}
    report = wandb.Artifact(f"report-{run.id}", type="report", metadata=about)
    for name in REPORT_FILES:
        report.add_file(str(outcome.run_dir / name))
    run.log_artifact(report)
    if (directory := outcome.run_dir / "adapter").is_dir():
        scored = {name: metrics[name] for name in ("conflict_mean", "gap")}
        adapter = wandb.Artifact(f"adapter-{run.id}", type="model", metadata={**about, **scored})
        adapter.add_dir(str(directory))
        run.log_artifact(adapter)
