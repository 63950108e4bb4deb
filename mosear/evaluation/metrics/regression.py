"""Metrics of sentiment, valence and arousal, as pure functions on arrays of the same length.

Papers give one name to several definitions. Here each definition has a name of its own:

====================  ===================================================  =======================================
binary convention     clips and classes                                    used by
====================  ===================================================  =======================================
``has0``              all clips, ``y >= 0`` against ``y < 0``              MMSA on CMU-MOSI / MOSEI ("Has0")
``non0``              without ``y = 0``, ``y > 0`` against ``y < 0``       MMSA ("Non0"), MERBench, MER-UniBench
``sims``              all clips, ``y > 0`` against ``y <= 0``              CH-SIMS, CH-SIMS v2
====================  ===================================================  =======================================

The seven and five classes of CMU-MOSI / MOSEI come from ``half_even`` rounding (MMSA: numpy's ``round``) or from
``away_from_zero`` (the bins of the CMU SDK: (0, 1] is 1, [-1, 0) is -1, only 0 is 0). The two disagree on a third of
the test labels, so a score without the name of its rounding means little.

A prediction must be a finite number: an answer that could not be parsed has to be dealt with, and counted, before.
Metrics over no clips are NaN, and so is a correlation with a constant.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mosear.evaluation.metrics.classification import accuracy_from_confusion, weighted_f1_from_confusion

FloatArray = npt.NDArray[np.float64]
Binary = Literal["has0", "non0", "sims"]
Rounding = Literal["half_even", "away_from_zero"]

IGNORED_FRAME = -5.0
SIMS_EDGES = {3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}
SIMS_WEAK = 0.4
MER_MSE_WEIGHT = 0.25
_NAN = float("nan")


def _pair(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    truth, prediction = (np.asarray(values, dtype=np.float64) for values in (y_true, y_pred))
    if truth.ndim != 1 or truth.shape != prediction.shape:
        raise ValueError(f"y_true and y_pred must be [N] arrays of one length, got {truth.shape}, {prediction.shape}.")
    for name, values in (("y_true", truth), ("y_pred", prediction)):
        if not np.isfinite(values).all():
            index = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{name}[{index}] is {values[index]}; leave such clips out, and report how many they are.")
    return truth, prediction


def mae(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
    """``mean_i |y_i - p_i|``; NaN for no clips."""
    truth, prediction = _pair(y_true, y_pred)
    return float(np.abs(truth - prediction).mean()) if truth.size else _NAN


def mse(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
    """``mean_i (y_i - p_i)^2``; NaN for no clips."""
    truth, prediction = _pair(y_true, y_pred)
    return float(np.square(truth - prediction).mean()) if truth.size else _NAN


def pearson(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
    """``r = cov(y, p) / (s_y s_p)``; NaN for fewer than two clips or where either side is constant."""
    truth, prediction = _pair(y_true, y_pred)
    if truth.size < 2 or np.ptp(truth) == 0 or np.ptp(prediction) == 0:
        return _NAN
    y, p = truth - truth.mean(), prediction - prediction.mean()
    return float(np.clip(y @ p / np.sqrt((y @ y) * (p @ p)), -1.0, 1.0))


def r_squared(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
    """``R^2 = 1 - sum (y - p)^2 / sum (y - mean y)^2``, not the square of r; NaN where y is empty or constant."""
    truth, prediction = _pair(y_true, y_pred)
    if not truth.size or np.ptp(truth) == 0:
        return _NAN
    return float(1 - np.square(truth - prediction).sum() / np.square(truth - truth.mean()).sum())


def ccc(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, ignore: float | None = IGNORED_FRAME) -> float:
    """Concordance: ``CCC = 2 cov(y, p) / (var y + var p + (mean y - mean p)^2)`` with population moments.

    Aff-Wild2 takes it over the concatenation of all annotated frames of all videos, not as a mean over videos.

    Args:
        y_true: ``[N]`` true values.
        y_pred: ``[N]`` predictions.
        ignore: true value of frames without annotation, which are left out (Aff-Wild2: -5); None keeps all.

    Returns:
        A number in [-1, 1]; NaN for no frames, or where both sides are the same constant (0 / 0).
    """
    truth, prediction = _pair(y_true, y_pred)
    if ignore is not None:
        annotated = truth != ignore
        truth, prediction = truth[annotated], prediction[annotated]
    if not truth.size:
        return _NAN
    covariance = ((truth - truth.mean()) * (prediction - prediction.mean())).mean()
    spread = truth.var() + prediction.var() + (truth.mean() - prediction.mean()) ** 2
    return float(2 * covariance / spread) if spread > 0 else _NAN


def affwild_score(valence: float, arousal: float) -> float:
    """``(CCC_V + CCC_A) / 2``, the score of Aff-Wild2's valence-arousal track."""
    return (valence + arousal) / 2


def mer_score(weighted_f1: float, valence_mse: float) -> float:
    """``wF1 - 0.25 MSE(valence)``, by which MER2023's MULTI and NOISE tracks rank (SEMI: wF1 alone).

    wF1 is a share in [0, 1], valence is on the scale of the labels, about [-5, 5].
    """
    return weighted_f1 - MER_MSE_WEIGHT * valence_mse


def _binary_confusion(truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return np.bincount(2 * truth.astype(np.int64) + prediction, minlength=4).reshape(2, 2)


def binary_scores(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, convention: Binary) -> dict[str, float]:
    """Two-class accuracy ("Acc-2") and support-weighted F1, under a named convention (see the module's table).

    Under ``non0`` a prediction of exactly 0 counts as negative, which punishes models that answer "0.0" a lot.

    Returns:
        ``n`` (clips that took part), ``accuracy`` and ``weighted_f1``; the last two NaN for no clips.

    Raises:
        ValueError: for an unknown convention, lengths that differ or values that are not finite.
    """
    _check(convention, "convention", get_args(Binary))
    truth, prediction = _pair(y_true, y_pred)
    if convention == "non0":
        truth, prediction = truth[truth != 0], prediction[truth != 0]
    if convention == "has0":
        matrix = _binary_confusion(truth >= 0, prediction >= 0)
    else:
        matrix = _binary_confusion(truth > 0, prediction > 0)
    return {
        "n": int(matrix.sum()),
        "accuracy": accuracy_from_confusion(matrix),
        "weighted_f1": weighted_f1_from_confusion(matrix),
    }


def to_level(values: npt.ArrayLike, *, bound: int, rounding: Rounding) -> npt.NDArray[np.int64]:
    """Sentiment levels ``-bound .. bound``: the values are clipped to the bound, then rounded.

    * ``half_even``: to the nearest integer, halves to the even one (0.5 is 0, 1.5 is 2);
    * ``away_from_zero``: ``sign(x) ceil(|x|)``.
    """
    _check(rounding, "rounding", get_args(Rounding))
    clipped = np.clip(np.asarray(values, dtype=np.float64), -bound, bound)
    rounded = np.round(clipped) if rounding == "half_even" else np.sign(clipped) * np.ceil(np.abs(clipped))
    return rounded.astype(np.int64)


def level_accuracy(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, *, levels: Literal[5, 7], rounding: Rounding) -> float:
    """ "Acc-7" (levels -3..3) or "Acc-5" (-2..2): ``mean_i [level(y_i) = level(p_i)]``; NaN for no clips.

    Raises:
        ValueError: for other numbers of levels, or an unknown rounding.
    """
    if levels not in (5, 7):
        raise ValueError(f"levels must be 5 or 7, got {levels}.")
    truth, prediction = _pair(y_true, y_pred)
    bound = levels // 2
    same = to_level(truth, bound=bound, rounding=rounding) == to_level(prediction, bound=bound, rounding=rounding)
    return float(same.mean()) if same.size else _NAN


def sims_class(values: npt.ArrayLike, *, classes: Literal[3, 5]) -> npt.NDArray[np.int64]:
    """CH-SIMS' classes ``0 .. classes - 1`` of values clipped to [-1, 1]; a class owns its upper edge.

    Three classes have edges -0.1, 0.1; five -0.7, -0.1, 0.1, 0.7. Values meet the edges in float32, as label files
    store them, so that a label of 0.1 lies on the edge 0.1.
    """
    if classes not in SIMS_EDGES:
        raise ValueError(f"classes must be one of {sorted(SIMS_EDGES)}, got {classes}.")
    clipped = np.clip(np.asarray(values, dtype=np.float32), -1, 1)
    return np.searchsorted(np.asarray(SIMS_EDGES[classes], dtype=np.float32), clipped, side="left").astype(np.int64)


def mosi_scores(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> dict[str, float]:
    """Everything reported on CMU-MOSI and MOSEI (scale [-3, 3]), each definition under its own name.

    Returns:
        ``n``, ``mae``, ``pearson``, ``acc2_has0``, ``f1_has0``, ``acc2_non0``, ``f1_non0``, ``n_non0``, and ``acc5_R``,
        ``acc7_R`` for both roundings R. NaN for no clips.
    """
    scores: dict[str, float] = {"n": len(_pair(y_true, y_pred)[0])}
    scores |= {"mae": mae(y_true, y_pred), "pearson": pearson(y_true, y_pred)}
    for convention in ("has0", "non0"):
        binary = binary_scores(y_true, y_pred, convention=convention)
        scores |= {f"acc2_{convention}": binary["accuracy"], f"f1_{convention}": binary["weighted_f1"]}
    scores["n_non0"] = binary["n"]
    for rounding in get_args(Rounding):
        for levels in (5, 7):
            scores[f"acc{levels}_{rounding}"] = level_accuracy(y_true, y_pred, levels=levels, rounding=rounding)
    return scores


def sims_scores(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> dict[str, float]:
    """Everything reported on CH-SIMS and CH-SIMS v2 (scale [-1, 1], to which both sides are clipped first).

    Returns:
        ``n``, ``acc2``, ``f1`` (convention ``sims``), ``acc2_weak`` (the same on ``|y| <= 0.4``) with ``n_weak``,
        ``acc2_non0``, ``f1_non0`` (MERBench's convention), ``acc3``, ``acc5``, ``mae``, ``pearson``, ``r_squared``. NaN
        for no clips.
    """
    truth, prediction = (np.clip(values, -1.0, 1.0) for values in _pair(y_true, y_pred))
    weak = np.abs(truth.astype(np.float32)) <= np.float32(SIMS_WEAK)
    binary = binary_scores(truth, prediction, convention="sims")
    weak_binary = binary_scores(truth[weak], prediction[weak], convention="sims")
    non0 = binary_scores(truth, prediction, convention="non0")
    scores: dict[str, float] = {
        "n": truth.size,
        "acc2": binary["accuracy"],
        "f1": binary["weighted_f1"],
        "acc2_weak": weak_binary["accuracy"],
        "n_weak": weak_binary["n"],
        "acc2_non0": non0["accuracy"],
        "f1_non0": non0["weighted_f1"],
    }
    for classes in (3, 5):
        same = sims_class(truth, classes=classes) == sims_class(prediction, classes=classes)
        scores[f"acc{classes}"] = float(same.mean()) if same.size else _NAN
    measures = {"mae": mae, "pearson": pearson, "r_squared": r_squared}
    return scores | {name: measure(truth, prediction) for name, measure in measures.items()}


def _check(value: str, name: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}.")
