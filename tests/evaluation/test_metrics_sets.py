import math

import numpy as np
import pytest

from mosear.evaluation import metrics
from mosear.evaluation.metrics.sets import tidy

WORDS = ["happy", "joyful", "glad", "sad", "angry", "furious", "calm", "worried"]


def draw(seed: int, n: int = 60) -> tuple[list[list[str]], list[list[str]]]:
    rng = np.random.default_rng(seed)

    def words(least: int) -> list[str]:
        return [str(word) for word in rng.choice(WORDS, rng.integers(least, 5), replace=False)]

    return [words(0) for _ in range(n)], [words(0) for _ in range(n)]


def test_golden_clips():
    """(t, |P|, |G|) = (1, 1, 1), (2, 2, 3), (1, 3, 2)."""
    gold = [["a"], ["a", "b", "c"], ["a", "b"]]
    predicted = [["a"], ["a", "b"], ["a", "x", "y"]]
    scores = metrics.set_scores(gold, predicted)
    assert scores["precision"] == pytest.approx(7 / 9)
    assert scores["recall"] == pytest.approx(13 / 18)
    assert scores["avg"] == pytest.approx(3 / 4)
    assert scores["pooled_precision"] == pytest.approx(2 / 3)
    assert scores["pooled_recall"] == pytest.approx(2 / 3)
    assert scores["mean_predicted"] == 2
    assert (scores["n"], scores["skipped"], scores["empty"]) == (3, 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_against_a_literal_loop(seed):
    gold, predicted = draw(seed)
    groups = [["happy", "joyful", "glad"], ["angry", "furious"]]
    table = metrics.SynonymGroups.from_groups(groups, version="t1")
    precisions, recalls = [], []
    for truth, guess in zip(gold, predicted, strict=True):
        truth_groups = {next((g[0] for g in groups if word in g), word) for word in truth}
        guess_groups = {next((g[0] for g in groups if word in g), word) for word in guess}
        if not truth_groups:
            continue
        hits = sum(word in truth_groups for word in guess_groups)
        precisions.append(hits / len(guess_groups) if guess_groups else 0)
        recalls.append(hits / len(truth_groups) if guess_groups else 0)
    scores = metrics.synonym_scores(gold, predicted, table)
    assert scores["precision"] == pytest.approx(np.mean(precisions))
    assert scores["recall"] == pytest.approx(np.mean(recalls))
    assert scores["avg"] == pytest.approx((np.mean(precisions) + np.mean(recalls)) / 2)
    assert scores["f1"] == pytest.approx(metrics.f_score(np.mean(precisions), np.mean(recalls)))
    assert scores["n"] == len(precisions) == len(gold) - scores["skipped"]
    assert scores["empty"] == sum(not guess for truth, guess in zip(gold, predicted, strict=True) if truth)
    assert (scores["table_version"], len(scores["table_sha256"])) == ("t1", 64)


def test_more_words_never_lower_recall():
    gold, predicted = draw(5)
    every = metrics.set_scores(gold, [WORDS] * len(gold))
    assert every["recall"] == 1.0
    assert every["recall"] >= metrics.set_scores(gold, predicted)["recall"]
    assert every["mean_predicted"] == len(WORDS)


def test_case_space_and_repetition_do_not_count():
    assert tidy([" Happy", "happy ", "", "SAD"]) == ["happy", "sad"]
    assert metrics.set_scores([["Happy"]], [[" happy", "HAPPY"]])["precision"] == 1.0


def test_empty_sets():
    scores = metrics.set_scores([[], ["sad"]], [["happy"], []])
    assert (scores["n"], scores["skipped"], scores["empty"]) == (1, 1, 1)
    assert scores["precision"] == scores["recall"] == scores["f1"] == scores["pooled_precision"] == 0
    nothing = metrics.set_scores([[]], [["happy"]])
    assert nothing["n"] == 0
    assert all(math.isnan(nothing[name]) for name in ("precision", "recall", "avg", "f1", "pooled_precision",
                                                      "pooled_recall", "mean_predicted"))  # fmt: skip


def test_f_score():
    assert metrics.f_score(0.0, 0.0) == 0.0
    assert metrics.f_score(0.55940, 0.54852) == pytest.approx(0.5539, abs=5e-5)


def test_synonym_tables_are_told_apart():
    first = metrics.SynonymGroups.from_groups([["happy", "glad"]], version="v")
    second = metrics.SynonymGroups.from_groups([["happy", "joyful"]], version="v")
    assert first.sha256 != second.sha256
    assert first.sha256 == metrics.SynonymGroups.from_groups([["Happy ", "glad"]], version="w").sha256


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.set_scores([["a"]], []), "1 entries but y_pred has 0"),
        (lambda: metrics.set_scores([["a"]], ["happy"]), "'happy' is one string"),
        (lambda: metrics.SynonymGroups.from_groups([["a", "b"], ["b"]], version="v"), "'b' is in the group of 'a'"),
        (lambda: metrics.SynonymGroups.from_groups([], version=" "), "needs a version"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
