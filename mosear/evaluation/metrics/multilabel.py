"""Multi-label metrics, as on CMU-MOSEI's emotions. ``N`` clips, ``K`` labels; 1 says that a label is present."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


def indicators(sets: Sequence[Collection[str]], labels: Sequence[str]) -> BoolArray:
    """``[N, K]`` of sets of labels."""
    return np.array([[label in chosen for label in labels] for chosen in sets], dtype=bool).reshape(-1, len(labels))


def _indicators(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[BoolArray, BoolArray]:
    truth, prediction = np.asarray(y_true), np.asarray(y_pred)
    if truth.ndim != 2 or truth.shape != prediction.shape:
        raise ValueError(f"y_true and y_pred must be [N, K] indicators of one shape, got {truth.shape}, "
                         f"{prediction.shape}.")  # fmt: skip
    for name, array in (("y_true", truth), ("y_pred", prediction)):
        if not np.isin(array, (0, 1)).all():
            raise ValueError(f"{name} must hold only 0 and 1; apply a threshold that was chosen on validation data.")
    return truth.astype(bool), prediction.astype(bool)


def _share(part: float, whole: float, *, empty: float = 0.0) -> float:
    return float(part / whole) if whole else empty


def micro_scores(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> dict[str, float]:
    """Precision, recall and F1 over all N x K decisions together::

        P = TP / (TP + FP)        R = TP / (TP + FN)        F1 = 2 TP / (2 TP + FP + FN)

    0 where a denominator is 0 (nothing predicted, or nothing there); NaN for no clips.
    """
    truth, prediction = _indicators(y_true, y_pred)
    if not truth.size:
        return dict.fromkeys(("precision", "recall", "f1"), float("nan"))
    hits = (truth & prediction).sum()
    return {
        "precision": _share(hits, prediction.sum()),
        "recall": _share(hits, truth.sum()),
        "f1": _share(2 * hits, truth.sum() + prediction.sum()),
    }


def sample_jaccard(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, both_empty: float = 0.0) -> float:
    """``mean_i |Y_i & P_i| / |Y_i | P_i|``: the "accuracy" of the multi-label literature on CMU-MOSEI.

    Args:
        y_true: ``[N, K]`` indicators.
        y_pred: ``[N, K]`` indicators.
        both_empty: what a clip without any label, rightly given none, counts: 0 as published, though it is right.

    Returns:
        The mean; NaN for no clips.
    """
    truth, prediction = _indicators(y_true, y_pred)
    if not truth.size:
        return float("nan")
    union = (truth | prediction).sum(axis=1)
    shares = np.divide((truth & prediction).sum(axis=1), union, out=np.full(len(union), both_empty), where=union > 0)
    return float(shares.mean())


def macro_f1_over_labels(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
    """``(1 / K) sum_k 2 TP_k / (n_k + p_k)``; a label that is never there and never predicted counts 0, and no clips
    give NaN."""
    truth, prediction = _indicators(y_true, y_pred)
    if not truth.size:
        return float("nan")
    total = truth.sum(axis=0) + prediction.sum(axis=0)
    hits = 2.0 * (truth & prediction).sum(axis=0)
    return float(np.divide(hits, total, out=np.zeros(len(total)), where=total > 0).mean())


def weighted_accuracy_per_label(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """``(TPR_k + TNR_k) / 2`` per label, shape ``[K]``, as in older papers.

    NaN for a label that is always or never there.
    """
    truth, prediction = _indicators(y_true, y_pred)
    positives, negatives = truth.sum(axis=0), (~truth).sum(axis=0)
    rates = [
        np.divide(hits.sum(axis=0), count, out=np.full(truth.shape[1], np.nan), where=count > 0)
        for hits, count in ((truth & prediction, positives), (~truth & ~prediction, negatives))
    ]
    return (rates[0] + rates[1]) / 2


def multilabel_scores(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> dict[str, Any]:
    """``n``, ``micro_precision``, ``micro_recall``, ``micro_f1``, ``jaccard`` and ``labels_true``, ``labels_predicted``
    (mean number of labels per clip); NaN for no clips."""
    truth, prediction = _indicators(y_true, y_pred)
    micro = {f"micro_{name}": value for name, value in micro_scores(truth, prediction).items()}
    means = [float(array.sum(axis=1).mean()) if len(array) else float("nan") for array in (truth, prediction)]
    return {
        "n": len(truth),
        **micro,
        "jaccard": sample_jaccard(truth, prediction),
        "labels_true": means[0],
        "labels_predicted": means[1],
    }
