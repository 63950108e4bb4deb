import math
from typing import get_args

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error, r2_score

from mosear.evaluation import metrics
from mosear.evaluation.metrics.regression import Binary, Rounding

# The grid of CMU-MOSI's labels has thirds and halves, CH-SIMS' has fifths; predictions often sit on it too.
MOSI_GRID = np.concatenate([np.arange(-9, 10) / 3, np.arange(-6, 7) / 2])
SIMS_GRID = np.arange(-10, 11) / 10


def draw(grid: np.ndarray, seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(grid, n)
    noise = rng.normal(0, np.abs(grid).max() / 3, n)
    return truth, np.where(rng.random(n) < 0.3, rng.choice(grid, n), truth + noise)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_scipy_and_sklearn(seed):
    truth, guess = draw(MOSI_GRID, seed)
    assert metrics.mae(truth, guess) == pytest.approx(mean_absolute_error(truth, guess))
    assert metrics.mse(truth, guess) == pytest.approx(mean_squared_error(truth, guess))
    assert metrics.pearson(truth, guess) == pytest.approx(pearsonr(truth, guess).statistic)
    assert metrics.r_squared(truth, guess) == pytest.approx(r2_score(truth, guess))


def test_ccc_golden_value_uses_population_moments():
    x, y = [0.1, 0.4, -0.2, 0.3], [0.2, 0.5, -0.1, 0.1]
    assert metrics.ccc(x, y) == pytest.approx(0.825, abs=5e-4)
    assert metrics.pearson(x, y) == pytest.approx(0.83152, abs=5e-6)


@pytest.mark.parametrize("seed", range(3))
def test_ccc_against_its_other_formula(seed):
    """2 r s_x s_y / (s_x^2 + s_y^2 + (m_x - m_y)^2)."""
    truth, guess = draw(SIMS_GRID, seed)
    r, sx, sy = pearsonr(truth, guess).statistic, truth.std(), guess.std()
    expected = 2 * r * sx * sy / (sx**2 + sy**2 + (truth.mean() - guess.mean()) ** 2)
    assert metrics.ccc(truth, guess) == pytest.approx(expected)
    assert metrics.ccc(truth, truth) == pytest.approx(1)
    assert metrics.ccc(truth, -truth) < 0
    assert metrics.ccc(truth, guess) == pytest.approx(metrics.ccc(guess, truth))
    assert abs(metrics.ccc(truth, guess + 0.5)) < abs(r)


def test_ccc_leaves_out_frames_without_annotation():
    truth, guess = [0.1, -5.0, 0.4, -0.2, -5.0], [0.2, 9.0, 0.5, -0.1, -9.0]
    assert metrics.ccc(truth, guess) == metrics.ccc([0.1, 0.4, -0.2], [0.2, 0.5, -0.1])
    assert metrics.ccc([0.1, 0.7, 0.4, -0.2], [0.2, 0.0, 0.5, -0.1], ignore=0.7) == metrics.ccc(truth, guess)
    assert metrics.ccc(truth, guess, ignore=None) != metrics.ccc(truth, guess)
    assert math.isnan(metrics.ccc([-5.0], [0.3]))
    assert math.isnan(metrics.ccc([0.2, 0.2], [0.2, 0.2]))
    assert metrics.ccc([0.2, 0.2], [0.1, 0.3]) == 0
    assert metrics.affwild_score(0.5, 0.7) == pytest.approx(0.6)


def test_mer_score():
    assert metrics.mer_score(0.9036, 0.0) == 0.9036
    assert metrics.mer_score(0.8, metrics.mse([1.0, -2.0], [0.0, 0.0])) == pytest.approx(0.8 - 0.25 * 2.5)


@pytest.mark.parametrize("seed", range(3))
def test_binary_conventions(seed):
    truth, guess = draw(MOSI_GRID, seed)
    kept = truth != 0
    literal = {
        "has0": (truth >= 0, guess >= 0),
        "non0": (truth[kept] > 0, guess[kept] > 0),
        # Bins (-1.01, 0] and (0, 1.01].
        "sims": (np.array([0 if y <= 0 else 1 for y in truth]), np.array([0 if p <= 0 else 1 for p in guess])),
    }
    assert set(literal) == set(get_args(Binary))
    for convention, (y, p) in literal.items():
        scores = metrics.binary_scores(truth, guess, convention=convention)
        assert scores["n"] == len(y)
        assert scores["accuracy"] == pytest.approx(accuracy_score(y, p))
        assert scores["weighted_f1"] == pytest.approx(f1_score(y, p, average="weighted"))


def test_a_predicted_zero_is_positive_negative_or_negative():
    accuracies = {c: metrics.binary_scores([1.0], [0.0], convention=c)["accuracy"] for c in get_args(Binary)}
    assert accuracies == {"has0": 1.0, "non0": 0.0, "sims": 0.0}


@pytest.mark.parametrize(
    ("value", "half_even", "away"),
    [(0, 0, 0), (0.2, 0, 1), (0.5, 0, 1), (-0.5, 0, -1), (1.0, 1, 1), (1.4, 1, 2), (1.5, 2, 2), (2.5, 2, 3),
     (-1.0, -1, -1), (-1.2, -1, -2), (-2.5, -2, -3), (3.7, 3, 3), (-9.0, -3, -3)],
)  # fmt: skip
def test_seven_levels(value, half_even, away):
    assert metrics.to_level([value], bound=3, rounding="half_even").tolist() == [half_even]
    assert metrics.to_level([value], bound=3, rounding="away_from_zero").tolist() == [away]


def sdk_class(a: float) -> int:
    """The SDK's half-open bins, one by one."""
    if a < -2:
        return -3
    if a < -1:
        return -2
    if a < 0:
        return -1
    if a <= 0:
        return 0
    if a <= 1:
        return 1
    return 2 if a <= 2 else 3


@pytest.mark.parametrize("seed", range(3))
def test_level_accuracy(seed):
    truth, guess = draw(MOSI_GRID, seed)
    for levels in (5, 7):
        bound = levels // 2
        rounded = [np.round(np.clip(values, -bound, bound)) for values in (truth, guess)]
        found = metrics.level_accuracy(truth, guess, levels=levels, rounding="half_even")
        assert found == pytest.approx(np.mean(rounded[0] == rounded[1]))
    sdk = np.mean([sdk_class(y) == sdk_class(p) for y, p in zip(truth, guess, strict=True)])
    assert metrics.level_accuracy(truth, guess, levels=7, rounding="away_from_zero") == pytest.approx(sdk)


def test_the_roundings_disagree():
    levels = [metrics.to_level(MOSI_GRID, bound=3, rounding=rounding) for rounding in get_args(Rounding)]
    assert np.mean(levels[0] != levels[1]) > 0.3


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_sims_classes_own_their_upper_edge(kind):
    values = SIMS_GRID.astype(kind)
    names3 = {-1: 0, 0: 1, 1: 2}
    for value, three, five in zip(range(-10, 11), metrics.sims_class(values, classes=3),
                                  metrics.sims_class(values, classes=5), strict=True):  # fmt: skip
        assert three == names3[-1 if value <= -1 else 0 if value <= 1 else 1]
        assert five == sum(value > edge for edge in (-7, -1, 1, 7))
    assert metrics.sims_class([-4, 4], classes=5).tolist() == [0, 4]


@pytest.mark.parametrize("seed", range(3))
def test_sims_scores(seed):
    truth, guess = draw(SIMS_GRID, seed)
    scores = metrics.sims_scores(truth.astype(np.float32), guess)
    y, p = (np.clip(values.astype(np.float64), -1, 1) for values in (truth.astype(np.float32), guess))
    weak = np.abs(np.round(truth, 6)) <= 0.4
    for name, edges in (("acc2", (0.0,)), ("acc3", (-0.1, 0.1)), ("acc5", (-0.7, -0.1, 0.1, 0.7))):
        same = [sum(a > e + 1e-7 for e in edges) == sum(b > e + 1e-7 for e in edges) for a, b in zip(y, p, strict=True)]
        assert scores[name] == pytest.approx(np.mean(same))
        if name == "acc2":
            assert scores["acc2_weak"] == pytest.approx(np.mean(np.array(same)[weak]))
    assert scores["n_weak"] == weak.sum()
    assert scores["f1"] == pytest.approx(f1_score(y > 0, p > 0, average="weighted"))
    assert scores["acc2_non0"] == pytest.approx(np.mean((y > 0)[y != 0] == (p > 0)[y != 0]))
    assert scores["mae"] == pytest.approx(mean_absolute_error(y, p))
    assert scores["pearson"] == pytest.approx(pearsonr(y, p).statistic)
    assert scores["r_squared"] == pytest.approx(r2_score(y, p))


def test_mosi_scores_agree_with_the_single_functions():
    truth, guess = draw(MOSI_GRID, 7)
    scores = metrics.mosi_scores(truth, guess)
    assert scores["n"] == len(truth)
    assert scores["n_non0"] == np.count_nonzero(truth)
    for convention in ("has0", "non0"):
        binary = metrics.binary_scores(truth, guess, convention=convention)
        assert scores[f"acc2_{convention}"] == binary["accuracy"]
        assert scores[f"f1_{convention}"] == binary["weighted_f1"]
    for rounding in get_args(Rounding):
        for levels in (5, 7):
            single = metrics.level_accuracy(truth, guess, levels=levels, rounding=rounding)
            assert scores[f"acc{levels}_{rounding}"] == single
    assert {"acc7_half_even", "acc7_away_from_zero"} < set(scores)


def test_no_clips_is_undefined():
    for scores in (metrics.mosi_scores([], []), metrics.sims_scores([], [])):
        assert all(value == 0 if name.startswith("n") else math.isnan(value) for name, value in scores.items())
    assert math.isnan(metrics.pearson([1.0], [1.0]))
    assert math.isnan(metrics.pearson([1.0, 2.0], [3.0, 3.0]))
    assert math.isnan(metrics.r_squared([1.0, 1.0], [1.0, 2.0]))
    assert math.isnan(metrics.mse([], []))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mae([1.0], [1.0, 2.0]), r"\(1,\), \(2,\)"),
        (lambda: metrics.mae([[1.0]], [[1.0]]), r"\[N\] arrays"),
        (lambda: metrics.pearson([1.0, 2.0], [1.0, math.nan]), r"y_pred\[1\] is nan"),
        (lambda: metrics.binary_scores([1.0], [1.0], convention="zero"), "has0, non0, sims"),
        (lambda: metrics.level_accuracy([1.0], [1.0], levels=7, rounding="up"), "half_even, away_from_zero"),
        (lambda: metrics.level_accuracy([1.0], [1.0], levels=3, rounding="half_even"), "5 or 7, got 3"),
        (lambda: metrics.sims_class([1.0], classes=7), r"\[3, 5\], got 7"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
