import math

import numpy as np
import pytest
from sklearn.metrics import jaccard_score, precision_recall_fscore_support, recall_score

from mosear.evaluation import metrics


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random((200, 6)) < 0.25
    return truth.astype(int), (truth ^ (rng.random(truth.shape) < 0.2)).astype(int)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_sklearn(seed):
    truth, guess = draw(seed)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, guess, average="micro")
    assert metrics.micro_scores(truth, guess) == pytest.approx({"precision": precision, "recall": recall, "f1": f1})
    assert metrics.sample_jaccard(truth, guess) == pytest.approx(
        jaccard_score(truth, guess, average="samples", zero_division=0)
    )
    for k, value in enumerate(metrics.weighted_accuracy_per_label(truth, guess)):
        rates = [recall_score(truth[:, k], guess[:, k], pos_label=label) for label in (0, 1)]
        assert value == pytest.approx(np.mean(rates))


def test_precision_is_of_the_prediction():
    """F1 and Jaccard cannot tell the arguments apart, precision and recall can."""
    scores = metrics.micro_scores([[1, 1, 1, 0]], [[1, 0, 0, 1]])
    assert scores["precision"] == pytest.approx(1 / 2)
    assert scores["recall"] == pytest.approx(1 / 3)


def test_clips_without_labels():
    truth, guess = [[0, 0], [1, 0]], [[0, 0], [1, 0]]
    assert metrics.sample_jaccard(truth, guess) == 0.5
    assert metrics.sample_jaccard(truth, guess, both_empty=1.0) == 1.0
    assert metrics.micro_scores([[0, 0]], [[0, 0]]) == {"precision": 0, "recall": 0, "f1": 0}
    assert np.isnan(metrics.weighted_accuracy_per_label([[0], [0]], [[0], [1]])).all()


def test_summary():
    truth, guess = draw(4)
    scores = metrics.multilabel_scores(truth, guess)
    assert scores["n"] == 200
    assert scores["micro_f1"] == metrics.micro_scores(truth, guess)["f1"]
    assert scores["jaccard"] == metrics.sample_jaccard(truth, guess)
    assert scores["labels_true"] == pytest.approx(truth.sum() / 200)
    assert scores["labels_predicted"] == pytest.approx(guess.sum() / 200)
    empty = metrics.multilabel_scores(np.zeros((0, 6)), np.zeros((0, 6)))
    assert empty.pop("n") == 0
    assert all(math.isnan(value) for value in empty.values())


@pytest.mark.parametrize(
    ("truth", "guess", "message"),
    [
        ([[1, 0]], [[1]], r"\(1, 2\), \(1, 1\)"),
        ([1, 0], [1, 0], r"\[N, K\]"),
        ([[1, 0]], [[0.7, 0.1]], "y_pred must hold only 0 and 1"),
    ],
)
def test_user_errors(truth, guess, message):
    with pytest.raises(ValueError, match=message):
        metrics.micro_scores(truth, guess)
