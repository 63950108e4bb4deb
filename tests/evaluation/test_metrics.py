import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from mosear.data import conflict_rules
from mosear.evaluation import metrics
from mosear.inference.parsing import AnswerFormat

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


MELD_TEST = {"neutral": 1256, "joy": 402, "anger": 345, "surprise": 281, "sadness": 208, "disgust": 68, "fear": 50}


def constant_answer(support: dict[str, int], answer: str) -> np.ndarray:
    matrix = np.zeros((len(support), len(support) + 1), dtype=np.int64)
    matrix[:, list(support).index(answer)] = list(support.values())
    return matrix


def test_meld_constant_neutral():
    matrix = constant_answer(MELD_TEST, "neutral")
    assert metrics.accuracy_from_confusion(matrix) == pytest.approx(0.48123, abs=5e-6)
    assert metrics.weighted_f1_from_confusion(matrix) == pytest.approx(0.31268, abs=5e-6)
    assert metrics.macro_f1_from_confusion(matrix) == pytest.approx(0.09282, abs=5e-6)


def test_dfew_constant_neutral_and_folds():
    # Fold 1 has 2,341 test clips, 534 of them neutral; the split of the rest does not enter WAR or UAR.
    fold = {"happy": 489, "sad": 379, "neutral": 534, "angry": 435, "surprise": 294, "disgust": 29, "fear": 181}
    matrix = constant_answer(fold, "neutral")
    assert matrix.sum() == 2341
    scores = metrics.over_folds([matrix, constant_answer(fold, "happy")])
    assert scores["fold_war"][0] == pytest.approx(0.22811, abs=5e-6)
    assert scores["fold_uar"] == pytest.approx([0.14286, 0.14286], abs=5e-6)
    assert scores["war"] == pytest.approx((534 + 489) / 2 / 2341)
    assert scores["uar"] == pytest.approx(1 / 7)


def test_folds_count_once_whatever_their_size():
    small, large = np.array([[1, 0, 0], [0, 1, 0]]), np.array([[0, 100, 0], [100, 0, 0]])
    assert metrics.over_folds([small, large])["war"] == 0.5
    assert math.isnan(metrics.over_folds([small, np.zeros((2, 3))])["war"])
    with pytest.raises(ValueError, match=r"got the shapes \[\]"):
        metrics.over_folds([])
    with pytest.raises(ValueError, match="over one label list"):
        metrics.over_folds([small, np.zeros((3, 4))])


def test_skew_shows_a_constant_answer_for_what_it_is():
    """CREMA-D-Conflict, video-aligned: 1,887 clips, 746 of them happy."""
    support = {"H": 746, "D": 436, "F": 282, "S": 201, "A": 137, "N": 85}
    constant = metrics.skew_summary(constant_answer(support, "H"))
    assert constant["accuracy"] == constant["majority_accuracy"] == pytest.approx(746 / 1887)
    assert constant["uar"] == constant["majority_uar"] == pytest.approx(1 / 6)
    shares = np.array(list(support.values())) / 1887
    assert constant["balance"] == pytest.approx(scipy_entropy(shares) / np.log(6))
    assert metrics.skew_summary(np.eye(4, dtype=int))["balance"] == pytest.approx(1)
    assert metrics.skew_summary([[3, 0], [0, 0]])["balance"] == 0
    assert metrics.skew_summary([[3, 0]])["balance"] == 1
    assert all(math.isnan(value) for value in metrics.skew_summary(np.zeros((2, 3))).values())


def test_import_needs_no_torch():
    code = (
        "import sys; "
        "from mosear.evaluation import bootstrap, judge, metrics, predictions, report, summary; "
        "from mosear.inference import late_fusion, parsing; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_documentation_names_what_exists():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    table = text[text.index("| benchmark |") : text.index("Numbers to know")]
    functions = {name for row in table.splitlines()[2:] if row for name in re.findall(r"`(\w+)`", row.split("|")[2])}
    assert functions - set(metrics.__all__) == {"non0"}
    rules = re.findall(r"^\| `(\w+)` \|", text[text.index("## Conflict rules") : text.index("## Answer formats")], re.M)
    assert len(rules) == len(conflict_rules.RULE_SUBSETS)
    assert all(hasattr(conflict_rules, rule) for rule in rules)
    formats = re.findall(r"^\| `(\w+)` \|", text[text.index("## Answer formats") :], re.M)
    assert tuple(formats) == get_args(AnswerFormat)


def test_the_package_offers_every_name_once():
    assert sorted(metrics.__all__, key=str.lower) == sorted(set(metrics.__all__), key=str.lower)
    assert all(hasattr(metrics, name) for name in metrics.__all__)
