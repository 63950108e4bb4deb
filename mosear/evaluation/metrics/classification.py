"""Classification metrics over a fixed label list, as pure functions on arrays.

Legend: ``C`` labels, ``N`` clips. A confusion matrix ``M`` has shape ``[C, C + 1]``: row = true label, column =
predicted label, and the last column counts the clips whose answer named no label (unparsed, or outside the
vocabulary). Such an answer is counted as wrong and never mapped to a class. With ``n_c`` the support of class c,
``p_c`` its number of predictions and ``TP_c = M[c, c]``::

    recall_c = TP_c / n_c              precision_c = TP_c / p_c              F1_c = 2 TP_c / (n_c + p_c)

A metric over no clips is undefined and comes back as NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def confusion_matrix(y_true: Sequence[str], y_pred: Sequence[str | None], labels: Sequence[str]) -> IntArray:
    """Counts of (true label, predicted label).

    Args:
        y_true: ``[N]`` true labels, all of them in ``labels``.
        y_pred: ``[N]`` predictions; None or a string outside ``labels`` lands in the last column.
        labels: ``[C]`` the fixed label list, in the order of the rows.

    Returns:
        ``[C, C + 1]`` counts; the last column is "unparsed".

    Raises:
        ValueError: if the lengths differ, a label is listed twice, or a true label is not in the list.
    """
    if len(y_true) != len(y_pred):
        raise ValueError(
            f"y_true has {len(y_true)} entries but y_pred has {len(y_pred)}; pass one prediction per clip."
        )
    index = {label: i for i, label in enumerate(labels)}
    if len(index) != len(labels):
        raise ValueError(f"labels must be unique, got {list(labels)}.")
    unknown = sorted({str(label) for label in y_true if label not in index})
    if unknown:
        raise ValueError(
            f"true labels {unknown} are not in the label list {list(labels)}; extend the list or fix the manifest."
        )
    matrix = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    rows = [index[label] for label in y_true]
    columns = [len(labels) if label is None else index.get(label, len(labels)) for label in y_pred]
    np.add.at(matrix, (rows, columns), 1)
    return matrix


def _as_confusion(matrix: npt.ArrayLike) -> IntArray:
    array = np.asarray(matrix, dtype=np.int64)
    if array.ndim != 2 or array.shape[1] not in (array.shape[0], array.shape[0] + 1):
        raise ValueError(f"a confusion matrix is [C, C] or [C, C + 1] (unparsed last), got shape {array.shape}.")
    return array


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if values.size else float("nan")


def recall_per_class(matrix: npt.ArrayLike) -> FloatArray:
    """``recall_c = TP_c / n_c``, shape ``[C]``; NaN for a class without support."""
    array = _as_confusion(matrix)
    support = array.sum(axis=1)
    return np.divide(np.diagonal(array), support, out=np.full(len(array), np.nan), where=support > 0)


def f1_per_class(matrix: npt.ArrayLike) -> FloatArray:
    """``F1_c = 2 TP_c / (n_c + p_c)``, shape ``[C]``; 0 for a class that is neither present nor predicted."""
    array = _as_confusion(matrix)
    classes = len(array)
    total = array.sum(axis=1) + array[:, :classes].sum(axis=0)
    return np.divide(2.0 * np.diagonal(array), total, out=np.zeros(classes), where=total > 0)


def accuracy_from_confusion(matrix: npt.ArrayLike) -> float:
    """``sum_c TP_c / N``."""
    array = _as_confusion(matrix)
    clips = array.sum()
    return float(np.trace(array) / clips) if clips else float("nan")


def weighted_f1_from_confusion(matrix: npt.ArrayLike) -> float:
    """``sum_c (n_c / N) F1_c``."""
    array = _as_confusion(matrix)
    support = array.sum(axis=1)
    return float(support @ f1_per_class(array) / support.sum()) if support.sum() else float("nan")


def macro_f1_from_confusion(matrix: npt.ArrayLike) -> float:
    """``(1 / C) sum_c F1_c`` over the whole label list; an absent class that is never predicted counts 0."""
    array = _as_confusion(matrix)
    return _mean(f1_per_class(array)) if array.sum() else float("nan")


def uar_from_confusion(matrix: npt.ArrayLike) -> float:
    """Unweighted average recall ``mean_c recall_c`` over the classes with support (``n_c > 0``) only."""
    recall = recall_per_class(matrix)
    return _mean(recall[~np.isnan(recall)])


def war_from_confusion(matrix: npt.ArrayLike) -> float:
    """Weighted average recall ``sum_c (n_c / N) recall_c``; equal to accuracy, under the field's other name."""
    array = _as_confusion(matrix)
    support = array.sum(axis=1)
    present = support > 0
    return float(support[present] @ recall_per_class(array)[present] / support.sum()) if present.any() else float("nan")


def accuracy(y_true: Sequence[str], y_pred: Sequence[str | None], labels: Sequence[str]) -> float:
    """Share of clips answered with the true label; see :func:`accuracy_from_confusion`."""
    return accuracy_from_confusion(confusion_matrix(y_true, y_pred, labels))


def weighted_f1(y_true: Sequence[str], y_pred: Sequence[str | None], labels: Sequence[str]) -> float:
    """Support-weighted F1; see :func:`weighted_f1_from_confusion`."""
    return weighted_f1_from_confusion(confusion_matrix(y_true, y_pred, labels))


def macro_f1(y_true: Sequence[str], y_pred: Sequence[str | None], labels: Sequence[str]) -> float:
    """Unweighted mean F1 over all ``labels``; see :func:`macro_f1_from_confusion`."""
    return macro_f1_from_confusion(confusion_matrix(y_true, y_pred, labels))


def uar(y_true: Sequence[str], y_pred: Sequence[str | None], labels: Sequence[str]) -> float:
    """Mean recall over the classes with support; see :func:`uar_from_confusion`."""
    return uar_from_confusion(confusion_matrix(y_true, y_pred, labels))


def war(y_true: Sequence[str], y_pred: Sequence[str | None], labels: Sequence[str]) -> float:
    """Support-weighted recall; see :func:`war_from_confusion`."""
    return war_from_confusion(confusion_matrix(y_true, y_pred, labels))


def score_subset(y_true: Sequence[str], y_pred: Sequence[str | None], labels: Sequence[str]) -> dict[str, Any]:
    """All metrics of one subset, ready for ``metrics.json``.

    Returns:
        A dict with ``n``, ``accuracy``, ``weighted_f1``, ``macro_f1``, ``uar``, ``war``, ``unparsed`` (a count) and
        ``confusion`` (``[C, C + 1]`` nested lists).
    """
    matrix = confusion_matrix(y_true, y_pred, labels)
    return {
        "n": int(matrix.sum()),
        "accuracy": accuracy_from_confusion(matrix),
        "weighted_f1": weighted_f1_from_confusion(matrix),
        "macro_f1": macro_f1_from_confusion(matrix),
        "uar": uar_from_confusion(matrix),
        "war": war_from_confusion(matrix),
        "unparsed": int(matrix[:, -1].sum()),
        "confusion": matrix.tolist(),
    }


def skew_summary(matrix: npt.ArrayLike) -> dict[str, float]:
    """Accuracy beside what skewed labels hide, for test sets such as CREMA-D-Conflict.

    ``majority_accuracy = max_c n_c / N`` is what the constant answer of the commonest class gets, ``majority_uar = 1 /
    K`` its UAR with K classes present, and ``balance = -sum_c (n_c / N) ln(n_c / N) / ln C`` the evenness of the labels
    in [0, 1] (1: even; 0: one class only). An accuracy near ``majority_accuracy`` with a UAR near ``majority_uar`` says
    nothing about recognition. All NaN for no clips; ``balance`` is 1 with a single label in the list.
    """
    array = _as_confusion(matrix)
    support = array.sum(axis=1)
    present = support[support > 0]
    shares = present / present.sum() if present.size else np.full(1, np.nan)
    possible = np.log(len(array)) if len(array) > 1 else 0.0
    return {
        "accuracy": accuracy_from_confusion(array),
        "uar": uar_from_confusion(array),
        "majority_accuracy": float(shares.max()),
        "majority_uar": 1 / present.size if present.size else float("nan"),
        "balance": float(-(shares * np.log(shares)).sum() / possible) if possible else 1.0,
    }


def over_folds(matrices: Sequence[npt.ArrayLike]) -> dict[str, Any]:
    """WAR and UAR of a cross-validation: the mean over folds, each fold counting once (DFEW and MAFW: five folds).

    DFEW's own script averages the recall over the classes that occur among true labels *or* predictions, R1-Omni's over
    those among the true labels; here as everywhere the classes with support count.

    Args:
        matrices: one confusion matrix per fold, all over the same label list.

    Returns:
        ``war``, ``uar`` and the per-fold lists ``fold_war``, ``fold_uar``; the means are NaN if any fold is empty.

    Raises:
        ValueError: without folds, or if their shapes differ.
    """
    arrays = [_as_confusion(matrix) for matrix in matrices]
    if len({array.shape for array in arrays}) != 1:
        raise ValueError(
            f"folds need confusion matrices over one label list, got the shapes {[array.shape for array in arrays]}."
        )
    war_per_fold = [war_from_confusion(array) for array in arrays]
    uar_per_fold = [uar_from_confusion(array) for array in arrays]
    return {
        "war": float(np.mean(war_per_fold)),
        "uar": float(np.mean(uar_per_fold)),
        "fold_war": war_per_fold,
        "fold_uar": uar_per_fold,
    }
