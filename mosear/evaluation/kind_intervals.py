"""95 % intervals of the numbers beside the accuracy: F1 of sets, errors and correlations of scores, CCC of series.

Each is a function of sums over clips (counts, errors, products), so that a replicate needs the sums over drawn clips
alone (:func:`mosear.evaluation.bootstrap.drawn_sums`). Of a series the clips are drawn, with all their steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mosear.evaluation import metrics
from mosear.evaluation.bootstrap import drawn_sums
from mosear.evaluation.kinds import annotated, predicted_sets, true_sets
from mosear.evaluation.predictions import LABELS, SCORE, SERIES, Kind, PredictionRow, kind_of

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """How a kind's numbers come from sums over clips.

    Attributes:
        columns: ``[N, K]`` addends of each clip.
        numbers: of ``[B, K]`` sums, ``{number: [B]}``; NaN where it is not defined.
    """

    columns: Callable[[Sequence[PredictionRow], Sequence[str]], FloatArray]
    numbers: Callable[[FloatArray], dict[str, FloatArray]]


def intervals_beside(
    rows: Sequence[PredictionRow], labels: Sequence[str], *, n_boot: int, seed: int, level: float = 0.95
) -> dict[str, list[float] | None]:
    """``{number: [low, high]}``; empty for single labels.

    Replicates that do not define a number, such as the correlation with a constant, are left out; ``None`` where none
    does.

    Args:
        rows: of one subset.
        labels: the label list.
        n_boot: replicates.
        seed: of the resampling.
        level: coverage.
    """
    if (sums := SUMS.get(kind_of(rows))) is None:
        return {}
    drawn = drawn_sums(sums.columns(rows, labels), n_boot=n_boot, seed=seed)
    return {name: _bounds(values, level) for name, values in sums.numbers(drawn).items()}


def _bounds(values: FloatArray, level: float) -> list[float] | None:
    defined = values[np.isfinite(values)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def _divided(part: FloatArray, whole: FloatArray, empty: float) -> FloatArray:
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, empty), where=whole > 0)


def _set_columns(rows: Sequence[PredictionRow], labels: Sequence[str]) -> FloatArray:
    truth, found = (metrics.indicators(sets, labels) for sets in (true_sets(rows), predicted_sets(rows)))
    correct = np.array([[row.correct] for row in rows])
    return np.concatenate([np.ones((len(rows), 1)), correct, truth & found, truth, found], axis=1).astype(float)


def _set_numbers(sums: FloatArray) -> dict[str, FloatArray]:
    clips, exact = sums[:, 0], sums[:, 1]
    hits, truth, found = np.split(sums[:, 2:], 3, axis=1)
    all_hits, all_truth, all_found = (counts.sum(axis=1) for counts in (hits, truth, found))
    return {
        "exact": exact / clips,
        "micro_precision": _divided(all_hits, all_found, 0.0),
        "micro_recall": _divided(all_hits, all_truth, 0.0),
        "micro_f1": _divided(2 * all_hits, all_truth + all_found, 0.0),
        "macro_f1": _divided(2 * hits, truth + found, 0.0).mean(axis=1),
    }


def _moments(truth: Sequence[float], found: Sequence[float]) -> FloatArray:
    """``[8]``: count, sums of y, p, y^2, p^2, y p, \\|y - p\\|, (y - p)^2."""
    y, p = np.asarray(truth, dtype=float), np.asarray(found, dtype=float)
    columns = [np.ones_like(y), y, p, y * y, p * p, y * p, np.abs(y - p), np.square(y - p)]
    return np.array([column.sum() for column in columns])


def _concordance(sums: FloatArray) -> dict[str, FloatArray]:
    n = sums[:, 0]
    y, p, yy, pp, yp, error, square = (_divided(column, n, np.nan) for column in sums[:, 1:].T)
    variances = [np.maximum(yy - y * y, 0), np.maximum(pp - p * p, 0)]
    # A constant has no variance, but its sums round.
    y_var, p_var = (np.where(var > 1e-12 * own, var, 0.0) for var, own in zip(variances, (yy, pp), strict=True))
    covariance = yp - y * p
    return {
        "mae": error,
        "mse": square,
        "pearson": np.clip(_divided(covariance, np.sqrt(y_var * p_var), np.nan), -1, 1),
        "ccc": _divided(2 * covariance, y_var + p_var + np.square(y - p), np.nan),
    }


def _score_columns(rows: Sequence[PredictionRow], labels: Sequence[str]) -> FloatArray:
    pairs = [[own for own in (row.score, row.predicted_score) if own is not None] for row in rows]
    return np.stack([_moments(pair[:1], pair[1:]) if len(pair) == 2 else np.zeros(8) for pair in pairs])


def _series_columns(rows: Sequence[PredictionRow], labels: Sequence[str]) -> FloatArray:
    return np.stack([np.concatenate([_moments(*annotated([row], place)) for place in (0, 1)]) for row in rows])


def _series_numbers(sums: FloatArray) -> dict[str, FloatArray]:
    valence, arousal = (_concordance(half)["ccc"] for half in np.split(sums, 2, axis=1))
    return {"ccc_valence": valence, "ccc_arousal": arousal, "ccc": (valence + arousal) / 2}


SUMS: Mapping[Kind, Sums] = {
    LABELS: Sums(_set_columns, _set_numbers),
    SCORE: Sums(_score_columns, _concordance),
    SERIES: Sums(_series_columns, _series_numbers),
}
