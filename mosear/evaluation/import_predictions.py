"""Scores predictions of any other system as our own runs are scored.

    python -m mosear import-predictions theirs.csv --manifest data/crema-d-conflict.parquet \\
        --labels angry,disgust,fear,happy,neutral,sad --metrics uar,camer --system theirs --out outputs/theirs

The file is a CSV with a header, or JSONL with one object per line. Columns: ``id``; ``prediction``, a label or
generated text that is read by ``--answer-format``; and, if known, probabilities: ``p_LABEL`` for every label in a CSV,
an object ``probabilities`` in JSONL. Without ``prediction`` the most probable label is it.

``--task labels`` reads a set of labels per clip from the column ``labels`` (``happy|sad``, a JSON list, nothing for the
empty set) or from probabilities of at least ``--threshold``; ``--task score`` reads numbers from the column ``score``,
and puts them into the class whose score in ``--levels`` is nearest.

Clips of the manifest that
the file does not list count as wrong; ids that the manifest does not have are left out; both are named and counted.

``--out`` gets metrics.json, predictions.parquet and report.html, which ``mosear.evaluation.aggregate`` takes too.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from mosear.data.clip import Clip
from mosear.data.manifest import load_manifest
from mosear.data.prompt import AnswerFormat
from mosear.evaluation.benchmark_metrics import METRICS, Answers, benchmark_scores, benchmark_table
from mosear.evaluation.import_tasks import TASKS, Given, ImportTask
from mosear.evaluation.kinds import SCORINGS
from mosear.evaluation.predictions import LABEL, PredictionRow, write_predictions
from mosear.evaluation.report import write_report
from mosear.evaluation.summary import summarise, write_metrics

MODEL = "imported"
_IDS_SHOWN = 20
_SUM_TOLERANCE = 1e-3


def read_given(
    path: Path, labels: Sequence[str], *, id_column: str, prediction_column: str, task: ImportTask = TASKS["label"]
) -> dict[str, Given]:
    """``{id: what the file says}``.

    Raises:
        ValueError: the file is unreadable, lacks columns, repeats an id, or holds what are no probabilities.
    """
    readers = {".csv": _csv_records, ".jsonl": _json_records}
    if path.suffix not in readers:
        raise ValueError(f"{path}: predictions are a .csv or .jsonl file.")
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    found: dict[str, Given] = {}
    for where, record in readers[path.suffix](path, labels):
        if record.get(id_column) in (None, ""):
            raise ValueError(f"{where} has no {id_column!r}; its columns are {', '.join(record)} (see --id-column).")
        clip_id = str(record[id_column])
        if clip_id in found:
            raise ValueError(f"{where} repeats the id {clip_id!r}; give each clip once.")
        shares = record.get("probabilities")
        answer = record.get(prediction_column)
        if prediction_column not in record and shares is None:
            raise ValueError(
                f"{where} has neither {prediction_column!r} nor probabilities; its columns are {', '.join(record)} "
                "(see --prediction-column)."
            )
        if answer is not None and not task.accepts(answer):
            raise ValueError(f"{where}: {prediction_column} is {answer!r}, not {task.wants}.")
        p = None if shares is None else _distribution(shares, labels, where, independent=task.independent)
        found[clip_id] = Given(answer, p)
    if not found:
        raise ValueError(f"{path} has no predictions.")
    return found


def _csv_records(path: Path, labels: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where} has more or fewer cells than the header has columns.")
            shares = {label: row[f"p_{label}"] for label in labels if f"p_{label}" in row}
            yield where, {**row, "probabilities": shares} if any(shares.values()) else dict(row)


def _json_records(path: Path, labels: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where} is not JSON: {error}.") from None
            if not isinstance(record, dict):
                raise ValueError(f"{where} is not a JSON object.")
            yield where, record


def _distribution(shares: Any, labels: Sequence[str], where: str, *, independent: bool) -> tuple[float, ...]:
    if not isinstance(shares, Mapping) or set(shares) != set(labels):
        listed = ", ".join(map(str, shares)) if isinstance(shares, Mapping) else repr(shares)
        raise ValueError(
            f"{where}: probabilities must be given for exactly {', '.join(labels)}; they are for {listed}."
        )
    try:
        values = [float(shares[label]) for label in labels]
    except (TypeError, ValueError):
        values = [math.nan]
    if independent:
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"{where}: {dict(shares)} are no probabilities: each must be between 0 and 1.")
        return tuple(values)
    total = sum(values)
    if not all(value >= 0 for value in values) or not abs(total - 1) <= _SUM_TOLERANCE:
        raise ValueError(f"{where}: {dict(shares)} are no probabilities: they must be 0 or more and add up to 1.")
    return tuple(value / total for value in values)


def rows_of(clips: Sequence[Clip], given: Mapping[str, Given], options: argparse.Namespace) -> list[PredictionRow]:
    """One row per clip of the manifest, in its order; a clip that the file does not list is an unreadable answer.

    Raises:
        ValueError: the manifest does not say what is true.
    """
    task = TASKS[options.task]
    if problem := task.problem(clips, options):
        raise ValueError(problem)
    return [
        PredictionRow(
            id=clip.id,
            subset=clip.subset,
            split=clip.split,
            video=clip.video,
            text=clip.text,
            benchmark=options.name,
            model=MODEL,
            seed=options.seed,
            **task.fields(clip, given.get(clip.id), options),
        )
        for clip in clips
    ]


def import_predictions(options: argparse.Namespace) -> dict[str, Any]:
    """Reads, scores and writes; returns the content of ``metrics.json``.

    Raises:
        ValueError: nothing in the file is about the manifest, something in it is wrong, or ``--out`` holds a run.
    """
    if (options.out / "predictions.parquet").exists():
        raise ValueError(f"{options.out} already holds predictions; choose another directory for --out.")
    labels = options.labels
    task = TASKS[options.task]
    column = options.prediction_column or task.column
    given = read_given(options.file, labels, id_column=options.id_column, prediction_column=column, task=task)
    clips = list(load_manifest(options.manifest, split=options.split))
    ids = {clip.id for clip in clips}
    missing = [clip.id for clip in clips if clip.id not in given]
    unmatched = [clip_id for clip_id in given if clip_id not in ids]
    if len(missing) == len(clips):
        raise ValueError(
            f"no id of {options.file} is in {options.manifest}: the file has {unmatched[0]!r}, ..., the manifest "
            f"{missing[0]!r}, .... Rename the file's ids."
        )
    rows = rows_of(clips, given, options)
    summary = summarise(rows, labels, benchmark=options.name, steering="none", seed=options.seed)
    if options.metrics:
        answers = Answers(
            rows=rows,
            labels=labels,
            clips={clip.id: clip for clip in clips},
            levels=options.levels,
            synonyms=options.synonyms,
        )
        summary["benchmark_metrics"] = benchmark_scores(options.metrics, answers)
    about = {
        "file": options.file.name,
        "sha256": hashlib.sha256(options.file.read_bytes()).hexdigest(),
        "matched": len(clips) - len(missing),
        "missing": len(missing),
        "missing_ids": missing[:_IDS_SHOWN],
        "unmatched": len(unmatched),
        "unmatched_ids": unmatched[:_IDS_SHOWN],
    }
    run = {"experiment": options.system, "backbone": options.backbone or options.system}
    result = {**summary, "model": MODEL, "run": run, "import": about}
    options.out.mkdir(parents=True, exist_ok=True)
    write_metrics(result, options.out / "metrics.json")
    write_report(
        options.out / "report.html",
        title=f"{options.system} on {options.name}",
        run_info={**run, "import": about},
        summaries={MODEL: summary},
        predictions={MODEL: rows},
        labels=labels,
    )
    # Last: a directory with predictions is a finished import.
    write_predictions(rows, labels, options.out / "predictions.parquet")
    return result


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mosear import-predictions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="predictions, .csv or .jsonl")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of the test clips")
    parser.add_argument("--split", help="score the clips of this split only")
    parser.add_argument("--labels", type=_names, required=True, help="the labels, e.g. angry,happy,sad")
    parser.add_argument("--task", choices=list(TASKS), default="label", help="what is predicted: label, labels, score")
    parser.add_argument("--threshold", type=float, default=0.5, help="of --task labels, for probabilities (0.5)")
    parser.add_argument("--out", type=Path, required=True, help="run directory to write")
    parser.add_argument("--system", default="imported", help="what to call the system")
    parser.add_argument("--backbone", help="the model under it, for tables over several (default: the system)")
    parser.add_argument("--name", help="what to call the benchmark (default: the manifest's name)")
    parser.add_argument("--metrics", type=_names, default=[], help=f"benchmark metrics: {', '.join(METRICS)}")
    parser.add_argument("--levels", type=_pairs, default={}, help="scores of labels, e.g. negative=-1.5,neutral=0")
    parser.add_argument("--synonyms", type=_pairs, default={}, help="other spellings, e.g. anger=angry,sadness=sad")
    parser.add_argument("--answer-format", choices=get_args(AnswerFormat), default="word", help="of the predictions")
    parser.add_argument("--id-column", default="id", help="column of the clip ids")
    columns = ", ".join(f"{task.column} for {name}" for name, task in TASKS.items())
    parser.add_argument("--prediction-column", help=f"column of the predictions (default: {columns})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run, for tables over several seeds")
    options = parser.parse_args(arguments)
    options.name = options.name or options.manifest.stem
    try:
        options.levels = {label: float(value) for label, value in options.levels.items()}
    except ValueError:
        parser.error(f"--levels takes numbers, got {options.levels}")
    return options


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _pairs(text: str) -> dict[str, str]:
    pairs = [name.partition("=") for name in _names(text)]
    if not all(equals for _, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE,NAME=VALUE, got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def print_result(result: Mapping[str, Any], out: Path) -> None:
    """What was matched, the accuracies, and the benchmark's metrics."""
    from rich.console import Console

    console = Console()
    about = result["import"]
    lines = [f"{about['matched']} clips matched."]
    for key, words in (("missing", "clips have no prediction and count as wrong"), ("unmatched", "ids are unknown")):
        if about[key]:
            more = ", ..." if about[key] > _IDS_SHOWN else ""
            lines.append(f"{about[key]} {words}: {', '.join(about[f'{key}_ids'])}{more}")
    for subset, scores in result["subsets"].items():
        numbers = [SCORINGS[LABEL].numbers[0], *SCORINGS[result["kind"]].headline()]
        told = ", ".join(f"{n.heading} {n.text(scores[n.key])}{' %' if n.share else ''}" for n in numbers)
        lines.append(f"{subset.replace('_', ' ')}: n {scores['n']}, {told}, unparsed {scores['unparsed']}")
    lines += [
        f"{key.replace('_', ' ')}: {100 * result[key]:.1f} %"
        for key in ("conflict_mean", "gap")
        if result[key] is not None
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
    if found := result.get("benchmark_metrics"):
        console.print(benchmark_table(found))
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True, markup=False, highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse_arguments(arguments)
    try:
        result = import_predictions(options)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    print_result(result, options.out)


if __name__ == "__main__":
    main()
