import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from mosear.evaluation import metrics

LABELS = ["angry", "happy", "neutral", "sad", "surprise", "worried"]
# Emotion-LLaMA's stored confusion matrix on MER2023 test3, rows = true label.
MER2023 = [
    [179, 1, 2, 1, 0, 0],
    [2, 152, 7, 4, 3, 1],
    [10, 10, 134, 6, 2, 4],
    [2, 2, 1, 250, 0, 2],
    [1, 0, 3, 1, 6, 3],
    [4, 1, 3, 2, 1, 34],
]
NOT_A_LABEL = "~unparsed~"


def draw(seed: int, *, absent: tuple[str, ...] = (), unparsed: float = 0.1, n: int = 300):
    rng = np.random.default_rng(seed)
    present = [label for label in LABELS if label not in absent]
    y_true = [str(label) for label in rng.choice(present, n)]
    y_pred = [
        None if rng.random() < unparsed else (true if rng.random() < 0.5 else str(rng.choice(LABELS)))
        for true in y_true
    ]
    return y_true, y_pred


def test_published_matrix_gives_the_published_numbers():
    assert metrics.accuracy_from_confusion(MER2023) == pytest.approx(0.90528, abs=5e-6)
    assert metrics.war_from_confusion(MER2023) == pytest.approx(0.90528, abs=5e-6)
    assert metrics.weighted_f1_from_confusion(MER2023) == pytest.approx(0.90358, abs=5e-6)
    assert metrics.macro_f1_from_confusion(MER2023) == pytest.approx(0.81341, abs=5e-6)
    assert metrics.uar_from_confusion(MER2023) == pytest.approx(0.80694, abs=5e-6)


@pytest.mark.parametrize("absent", [(), ("sad",), ("angry", "worried", "happy")])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_sklearn(seed, absent):
    y_true, y_pred = draw(seed, absent=absent)
    reference = [NOT_A_LABEL if label is None else label for label in y_pred]
    fixed = {"labels": LABELS, "zero_division": 0}
    present = sorted(set(y_true))

    matrix = metrics.confusion_matrix(y_true, y_pred, LABELS)
    expected = sklearn_confusion(y_true, reference, labels=[*LABELS, NOT_A_LABEL])
    np.testing.assert_array_equal(matrix, expected[: len(LABELS)])
    assert metrics.accuracy(y_true, y_pred, LABELS) == pytest.approx(accuracy_score(y_true, reference))
    assert metrics.weighted_f1(y_true, y_pred, LABELS) == pytest.approx(
        f1_score(y_true, reference, average="weighted", **fixed)
    )
    assert metrics.macro_f1(y_true, y_pred, LABELS) == pytest.approx(
        f1_score(y_true, reference, average="macro", **fixed)
    )
    assert metrics.uar(y_true, y_pred, LABELS) == pytest.approx(
        recall_score(y_true, reference, labels=present, average="macro", zero_division=0)
    )
    assert metrics.war(y_true, y_pred, LABELS) == pytest.approx(
        recall_score(y_true, reference, average="weighted", **fixed)
    )


def test_uar_is_balanced_accuracy():
    y_true, y_pred = draw(9, unparsed=0.0, absent=("sad",))
    y_pred = ["happy" if label == "sad" else label for label in y_pred]
    assert metrics.uar(y_true, y_pred, LABELS) == pytest.approx(balanced_accuracy_score(y_true, y_pred))


def test_unparsed_is_wrong_and_never_a_class():
    assert metrics.confusion_matrix(["a", "b"], [None, "elsewhere"], ["a", "b"]).tolist() == [[0, 0, 1], [0, 0, 1]]
    score = metrics.score_subset(["a", "a", "b"], ["a", None, "elsewhere"], ["a", "b"])
    assert score["unparsed"] == 2
    assert score["accuracy"] == pytest.approx(1 / 3)
    assert score["confusion"] == [[1, 0, 1], [0, 0, 1]]


def test_score_subset_agrees_with_the_single_functions():
    y_true, y_pred = draw(5)
    score = metrics.score_subset(y_true, y_pred, LABELS)
    assert score["n"] == len(y_true)
    for name in ("accuracy", "weighted_f1", "macro_f1", "uar", "war"):
        assert score[name] == getattr(metrics, name)(y_true, y_pred, LABELS)


def test_no_clips_is_undefined_not_zero():
    score = metrics.score_subset([], [], LABELS)
    assert score["n"] == 0
    assert all(math.isnan(score[name]) for name in ("accuracy", "weighted_f1", "macro_f1", "uar", "war"))


@pytest.mark.parametrize(
    ("y_true", "y_pred", "labels", "message"),
    [
        (["a"], [], ["a"], "1 entries but y_pred has 0"),
        (["c"], ["a"], ["a", "b"], r"\['c'\] are not in the label list"),
        (["a"], ["a"], ["a", "a"], "must be unique"),
    ],
)
def test_user_errors(y_true, y_pred, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(y_true, y_pred, labels)


def test_matrix_shape_is_checked():
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        metrics.accuracy_from_confusion(np.zeros((2, 4)))


def test_conflict_mean_and_gap():
    assert metrics.conflict_mean(0.3, 0.9) == pytest.approx(0.6)
    assert metrics.gap(0.3, 0.9) == metrics.gap(0.9, 0.3) == pytest.approx(0.6)


def test_import_needs_no_torch():
    code = (
        "import sys; from mosear.evaluation import bootstrap, fusion, metrics, parsing, predictions, report, summary; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
