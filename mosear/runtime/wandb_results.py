"""What W&B gets at the end of a run: scores, confusion matrices, tables, example clips, and two artifacts."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mosear.evaluation.summary import by_subset
from mosear.runtime.wandb_logger import RunDirectoryWandbLogger

if TYPE_CHECKING:
    from mosear.evaluation.predictions import PredictionRow
    from mosear.evaluation.report import Example
    from mosear.runtime.assemble import Assembly

UNPARSED = "unparsed"
REPORT_FILES = ("report.html", "metrics.json", "predictions.parquet")
READINGS = ("visual", "audio", "text")


def publish_to_wandb(
    parts: Assembly,
    rows: Mapping[str, Sequence[PredictionRow]],
    summaries: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Any],
    shown: Sequence[Example],
) -> None:
    """Log the results to every W&B logger of the run (there is mostly none, and then W&B is not imported).

    Args:
        parts: the run; this is its first process.
        rows: predictions by system.
        summaries: scores by system.
        metrics: the content of ``metrics.json``.
        shown: the example clips of the report.
    """
    for logger in parts.trainer.loggers:
        if not isinstance(logger, RunDirectoryWandbLogger):
            continue
        run, labels = logger.experiment, parts.data.prompt.labels
        run.summary.update(dict(scores(summaries)))
        media = {
            "test/subsets": subset_table(summaries),
            **{f"confusion/{name}": chart for name, chart in confusion_matrices(rows, labels)},
            **{f"attention/{name}": attention_table(own) for name, own in parts.steering.items() if "before" in own},
        }
        if gate := metrics.get("gate", {}).get("subsets"):
            media["gate/test"] = gate_table(gate, metrics["gate"]["groups"])
        if shown:
            media["examples"] = example_table(parts, shown, labels, logger.media)
        run.log(media)
        if logger.artifacts:
            log_artifacts(parts, run, metrics)


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
    """``(<system>/<subset>, chart)``; answers that could not be read are a column of their own."""
    import wandb

    names = [*labels, UNPARSED]
    for system, own in rows.items():
        for subset, group in by_subset(own).items():
            chart = wandb.plot.confusion_matrix(
                y_true=[names.index(row.label) for row in group],
                preds=[names.index(row.prediction or UNPARSED) for row in group],
                class_names=names,
                title=f"{system}, {subset}",
            )
            yield f"{system}/{subset}", chart


def attention_table(telemetry: Mapping[str, Any]) -> Any:
    """One row per layer and head: attention mass before and after steering, and how often the head was flagged."""
    import wandb

    kinds = telemetry["modalities"]
    columns = [f"{kind} {time}" for time in ("before", "after") for kind in kinds]
    table = wandb.Table(columns=["layer", "head", *columns, "flagged"])
    parts = (telemetry["before"], telemetry["after"], telemetry["flagged"])
    for layer, heads in enumerate(zip(*parts, strict=True)):
        for head, (before, after, flagged) in enumerate(zip(*heads, strict=True)):
            table.add_data(layer, head, *before, *after, flagged)
    return table


def gate_table(subsets: Mapping[str, Mapping[str, Any]], groups: Sequence[str]) -> Any:
    """One row per test subset and layer: the mean weight of each group of experts."""
    import wandb

    table = wandb.Table(columns=["subset", "n", "layer", *groups])
    for subset, values in subsets.items():
        for layer, weights in enumerate(values["layers"]):
            table.add_data(subset, values["n"], layer, *weights)
    return table


def example_table(parts: Assembly, shown: Sequence[Example], labels: Sequence[str], media: str) -> Any:
    """One row per example clip: what it shows, what each system answered, and what each modality says alone."""
    import wandb

    systems = list(shown[0].predictions)
    pictures = {"none": [], "frames": ["frames"], "clip": ["frames", "clip"]}[media]
    columns: list[str | int] = [
        "id",
        "subset",
        *pictures,
        "text",
        "label",
        *systems,
        *(f"{name} alone" for name in READINGS),
    ]
    table = wandb.Table(columns=columns)
    clips = {clip.id: clip for clip in parts.data.manifest("test")}
    for example in shown:
        found: dict[str, Any] = {"frames": None if example.image is None else wandb.Image(_opened(example.image))}
        if media == "clip":
            video = parts.data.sources(clips[example.id])[0]
            playable = video is not None and video.suffix.removeprefix(".") in wandb.Video.EXTS
            found["clip"] = wandb.Video(str(video)) if playable else None
        answers = [example.predictions.get(name) or UNPARSED for name in systems]
        alone = [_likeliest(example.readings.get(name), labels) for name in READINGS]
        shows = [found[name] for name in pictures]
        table.add_data(example.id, example.subset, *shows, example.text, example.label, *answers, *alone)
    return table


def _opened(image: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(image))


def _likeliest(distribution: Sequence[float] | None, labels: Sequence[str]) -> str | None:
    return None if distribution is None else labels[max(range(len(labels)), key=distribution.__getitem__)]


def log_artifacts(parts: Assembly, run: Any, metrics: Mapping[str, Any]) -> None:
    """``report-<id>`` (page, metrics, predictions), and after training ``adapter-<id>`` (a directory PEFT can load)."""
    import wandb

    about = {"experiment": parts.cfg.name, "backbone": parts.cfg.backbone.name, "benchmark": metrics["benchmark"]}
    report = wandb.Artifact(f"report-{run.id}", type="report", metadata=about)
    for name in REPORT_FILES:
        report.add_file(str(parts.run_dir / name))
    run.log_artifact(report)
    if (directory := parts.run_dir / "adapter").is_dir():
        scored = {name: metrics[name] for name in ("conflict_mean", "gap")}
        adapter = wandb.Artifact(f"adapter-{run.id}", type="model", metadata={**about, **scored})
        adapter.add_dir(str(directory))
        run.log_artifact(adapter)
