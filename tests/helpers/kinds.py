"""Made-up predictions of every kind: sets of labels, scores, series; hostile text included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mosear.evaluation.predictions import Kind, PredictionRow, joined, write_predictions
from mosear.evaluation.summary import summarise, write_metrics

EVIL = "<script>alert('x')</script>\"'&"
EMOTIONS = ("happy", f"sad {EVIL}", "angry", "fear")
CLASSES = ("negative", f"neutral {EVIL}", "positive")
LISTS: dict[Kind, tuple[str, ...]] = {"label": EMOTIONS, "labels": EMOTIONS, "score": CLASSES, "series": CLASSES}


def nearest(value: float) -> str:
    """The class of a score in [-1, 1]."""
    return CLASSES[int(np.clip(round(value), -1, 1)) + 1]


def truth_and_answer(kind: Kind, rng: np.random.Generator, noise: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a row says of the truth and of the prediction."""
    if kind == "label":
        said = [EMOTIONS[i] for i in rng.integers(0, len(EMOTIONS), 2)]
        return {"label": said[0]}, {"prediction": said[rng.random() < noise]}
    if kind == "labels":
        there = rng.random(len(EMOTIONS)) < 0.4
        found = there ^ (rng.random(len(EMOTIONS)) < noise)
        truth, answer = ([name for name, on in zip(EMOTIONS, own, strict=True) if on] for own in (there, found))
        shares = np.where(found, 0.9, 0.2).tolist()
        return {"labels": truth, "label": joined(truth, EMOTIONS)}, {
            "predicted_labels": answer,
            "prediction": joined(answer, EMOTIONS),
            "distribution": shares,
        }
    if kind == "score":
        value = float(rng.uniform(-1, 1))
        guess = value + float(rng.normal(0, noise))
        return {"score": value, "label": nearest(value)}, {"predicted_score": guess, "prediction": nearest(guess)}
    steps = int(rng.integers(1, 9))
    whole = rng.uniform(-1, 1, (steps, 2))
    series = [tuple(None if rng.random() < 0.2 else float(v) for v in step) for step in whole]
    guesses = [tuple(float(v + rng.normal(0, noise)) for v in step) for step in whole]
    return {"series": series, "label": nearest(whole[:, 0].mean())}, {
        "predicted_series": guesses,
        "prediction": nearest(float(np.mean([step[0] for step in guesses]))),
    }


def rows_of(
    kind: Kind,
    *,
    model: str = "tuned",
    noise: float = 0.3,
    clips: int = 30,
    subsets: Sequence[str] = ("consistent", "video_aligned", "audio_aligned"),
    seed: int = 0,
    run_seed: int = 0,
    benchmark: str = "made up",
) -> list[PredictionRow]:
    """Rows with the same truth for every ``noise``; the first of each subset could not be read."""
    rows = []
    for subset in subsets:
        for i in range(clips):
            truth, answer = truth_and_answer(kind, np.random.default_rng([seed, i, sum(subset.encode())]), noise)
            if i == 0:
                answer = {"prediction": None, "unparsed_reason": EVIL}
            common = {"benchmark": benchmark, "model": model, "text": EVIL, "seed": run_seed}
            rows.append(PredictionRow(id=f"{subset} {EVIL} {i}", subset=subset, **truth, **answer, **common))
    return rows


def unread(row: PredictionRow) -> PredictionRow:
    """The same clip without an answer."""
    return replace(
        row,
        prediction=None,
        unparsed_reason="not read",
        distribution=None,
        predicted_labels=None,
        predicted_score=None,
        predicted_series=None,
    )


def write_run(
    directory: Path, kind: Kind, *, experiment: str = "model", labels: Sequence[str] = (), **options: Any
) -> Path:
    """The files of a finished run of one kind; ``options`` are those of :func:`rows_of`."""
    rows, labels = rows_of(kind, **options), labels or LISTS[kind]
    benchmark, seed = rows[0].benchmark, rows[0].seed
    summary = summarise(rows, labels, benchmark=benchmark, steering="none", seed=seed, n_boot=50)
    directory.mkdir(parents=True)
    run = {"experiment": experiment, "backbone": "features", "adapter": "none"}
    write_metrics({**summary, "model": rows[0].model, "run": run}, directory / "metrics.json")
    write_predictions(rows, labels, directory / "predictions.parquet")
    return directory
