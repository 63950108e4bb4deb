import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mosear.evaluation import metrics


def test_conflict_mean_and_gap():
    assert metrics.conflict_mean(0.3, 0.9) == pytest.approx(0.6)
    assert metrics.gap(0.3, 0.9) == metrics.gap(0.9, 0.3) == pytest.approx(0.6)


# Closed-set accuracy on CA-MER as VISTA's tables give it: video-aligned, audio-aligned, conflict, consistent, overall.
CAMER = {
    "zero-shot": (49.0, 60.0, 54.5, 68.0, 59.0),
    "label SFT": (55.0, 65.0, 60.0, 73.0, 64.3),
    "CoT SFT": (57.0, 66.0, 61.5, 74.0, 65.7),
    "gate SFT": (58.0, 66.0, 62.0, 74.0, 66.0),
    "VISTA": (61.0, 68.0, 64.5, 74.2, 67.7),
}


def by_subset(name: str) -> dict[str, float]:
    video, audio, _, consistent, _ = CAMER[name]
    return {"video_aligned": video, "audio_aligned": audio, "consistent": consistent}


@pytest.mark.parametrize("name", CAMER)
def test_camer_summary_gives_the_published_columns(name):
    summary = metrics.camer_summary(by_subset(name))
    video, audio, conflict, _, overall = CAMER[name]
    assert summary["conflict"] == pytest.approx(conflict)
    assert summary["overall"] == pytest.approx(overall, abs=0.05)
    assert summary["gap"] == audio - video


def test_specificity_is_the_gain_on_conflicts_beyond_that_on_consistent_clips():
    assert metrics.specificity(by_subset("VISTA"), by_subset("zero-shot")) == pytest.approx((64.5 - 54.5) - (74.2 - 68))
    # Prompts on the frozen model: modality decomposition against direct, 54.5 / 68.0 and 55.8 / 69.0.
    direct = {"video_aligned": 54.5, "audio_aligned": 54.5, "consistent": 68.0}
    decomposed = {"video_aligned": 55.8, "audio_aligned": 55.8, "consistent": 69.0}
    assert metrics.specificity(decomposed, direct) == pytest.approx(0.3)


def test_camer_summary_needs_its_subsets():
    with pytest.raises(ValueError, match="audio_aligned; found video_aligned, consistent"):
        metrics.camer_summary({"video_aligned": 1.0, "consistent": 1.0})
    nan = metrics.camer_summary({"video_aligned": math.nan, "audio_aligned": 1.0, "consistent": 1.0})
    assert all(math.isnan(value) for value in nan.values())


# EmoMM's project page: (accuracy, MAE) overall, and on align, conflict and missing.
EMOMM = {
    "Video-LLaMA2.1-7B-AV": ((22.46, 0.579), (23.94, 0.611), (25.84, 0.527), (21.55, 0.587)),
    "MiniCPM-o 2.6-8B": ((26.09, 0.781), (27.59, 0.723), (26.37, 0.751), (25.86, 0.794)),
    "Video-SALMONN 2-7B": ((41.47, 0.380), (49.05, 0.318), (41.25, 0.367), (40.65, 0.390)),
    "Qwen2.5-Omni-7B": ((44.53, 0.384), (52.09, 0.270), (46.47, 0.356), (43.27, 0.403)),
    "Qwen2.5-Omni-7B + CHASE": ((49.96, 0.326), (53.23, 0.256), (51.32, 0.302), (49.30, 0.339)),
    "VITA-1.5-8B": ((44.48, 0.327), (53.05, 0.277), (47.80, 0.319), (42.80, 0.335)),
    "VITA-1.5-8B + CHASE": ((49.56, 0.291), (53.82, 0.274), (52.96, 0.292), (48.34, 0.293)),
    "Gemini 3 Pro": ((56.41, 0.236), (59.85, 0.191), (56.23, 0.236), (56.06, 0.241)),
}
EMOMM_WEIGHTS = {"align": 85, "conflict": 164, "missing": 752}


@pytest.mark.parametrize("model", EMOMM)
def test_emomm_overall_is_the_sample_weighted_mean(model):
    overall, *parts = EMOMM[model]
    for column, tolerance in ((0, 0.03), (1, 0.0015)):
        scores = {name: part[column] for name, part in zip(EMOMM_WEIGHTS, parts, strict=True)}
        assert metrics.sample_weighted(scores, EMOMM_WEIGHTS) == pytest.approx(overall[column], abs=tolerance)


def test_sample_weighted_edges():
    assert metrics.sample_weighted({"a": 1.0, "b": math.nan}, {"a": 3, "b": 0}) == 1.0
    assert math.isnan(metrics.sample_weighted({"a": math.nan}, {"a": 0}))
    with pytest.raises(ValueError, match=r"\['b'\] are on one side"):
        metrics.sample_weighted({"a": 1.0}, {"a": 1, "b": 1})


def literal_level(score: float) -> int:
    return sum(score > edge + 1e-6 for edge in (-0.7, -0.1, 0.1, 0.7))


def test_emomm_scores_against_a_literal_loop():
    rng = np.random.default_rng(0)
    truth = np.round(rng.uniform(-1, 1, 300), 1).tolist()
    guesses = [None if rng.random() < 0.1 else float(np.round(rng.uniform(-1, 1), 1)) for _ in truth]
    subsets = rng.choice(["align", "conflict", "missing_audio"], 300).tolist()
    scores = metrics.emomm_scores(truth, guesses, subsets)
    assert set(scores) == {"align", "conflict", "missing_audio", "overall"}
    for name, found in scores.items():
        rows = [(y, p) for y, p, s in zip(truth, guesses, subsets, strict=True) if name in (s, "overall")]
        levels = [literal_level(y) for y, _ in rows]
        answers = [-1 if p is None else literal_level(p) for _, p in rows]
        errors = [1 + abs(y) if p is None else abs(y - p) for y, p in rows]
        assert found["n"] == len(rows)
        assert found["unparsed"] == sum(p is None for _, p in rows)
        assert found["accuracy"] == pytest.approx(np.mean(np.equal(levels, answers)))
        assert found["mae"] == pytest.approx(np.mean(errors))
        for average in ("macro", "weighted"):
            reference = f1_score(levels, answers, labels=range(5), average=average, zero_division=0)
            assert found[f"{average}_f1"] == pytest.approx(reference)
    counts = {name: found["n"] for name, found in scores.items() if name != "overall"}
    for measure in ("accuracy", "mae"):
        weighted = metrics.sample_weighted({name: scores[name][measure] for name in counts}, counts)
        assert weighted == pytest.approx(scores["overall"][measure])


def test_emomm_edges_are_the_callers_and_belong_to_the_class_below():
    exact = metrics.emomm_scores([0.1, 0.7], [np.float32(0.1), 0.69], ["a", "a"])
    assert exact["overall"]["accuracy"] == 1.0
    signs = metrics.emomm_scores([0.3, -0.3], [0.9, -0.9], ["a", "a"], edges=(-0.1, 0.1))
    assert signs["a"]["accuracy"] == 1.0
    nothing = metrics.emomm_scores([], [], [])
    assert set(nothing) == {"overall"}
    assert math.isnan(nothing["overall"]["mae"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], [], ["a"]), "1 true scores, 0 predictions and 1 subset"),
        (([0.0], [0.0], ["overall"]), "rename it"),
        (([2.4], [0.0], ["a"]), "y_true must lie on the scale"),
        (([0.0], [float("nan")], ["a"]), r"y_pred must lie on the scale \[-1, 1\], got nan"),
    ],
)
def test_emomm_user_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.emomm_scores(*arguments)
