"""Fitted arbiters find what readings hold, and nothing where they hold nothing."""

import numpy as np
import pytest

from benchmarks.reading_ceiling import accuracies, candidate_arbiter, confidence_arbiter
from mosear.evaluation.predictions import PredictionRow

LABELS = ["angry", "happy", "sad", "neutral"]


def reading(top: int, confidence: float) -> list[float]:
    rest = (1 - confidence) / (len(LABELS) - 1)
    return [confidence if one == top else rest for one in range(len(LABELS))]


def conflict_clips(strong: float, weak: float, count: int = 200) -> list[PredictionRow]:
    """Half believe the face; the right modality reads its label with ``strong`` confidence, the other with ``weak``."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        right, wrong = (int(one) for one in rng.permutation(len(LABELS))[:2])
        face = index % 2 == 0
        seen, heard = (reading(right, strong), reading(wrong, weak))[:: 1 if face else -1]
        subset = "video_aligned" if face else "audio_aligned"
        common = {
            "prediction": LABELS[right],
            "benchmark": "toy",
            "model": "zero_shot",
            "p_visual": seen,
            "p_audio": heard,
        }
        rows.append(PredictionRow(id=str(index), subset=subset, label=LABELS[right], **common))
    return rows


def test_what_confidence_says_is_found_even_if_it_says_the_opposite() -> None:
    table = accuracies(conflict_clips(strong=0.5, weak=0.9), LABELS)
    assert table["late fusion"] == [0, 0, 0]
    assert table["confidence, fitted"][2] > 95 and table["candidates, fitted"][2] > 95
    assert table["true direction"] == [100, 100, 100]


def test_equal_confidence_leaves_arbiters_at_chance() -> None:
    table = accuracies(conflict_clips(strong=0.7, weak=0.7), LABELS)
    assert 30 < table["confidence, fitted"][2] < 70
    assert 30 < table["candidates, fitted"][2] < 70


def test_no_clip_is_answered_by_who_has_seen_it() -> None:
    rng = np.random.default_rng(1)
    noise = [rng.dirichlet(np.ones(4), 300) for _ in range(3)]
    truth = rng.integers(0, 4, 300)
    assert abs((candidate_arbiter(noise, truth) == truth).mean() - 0.25) < 0.1
    face = rng.random(300) < 0.5
    believed = confidence_arbiter(noise[0], noise[1], face) == noise[0].argmax(1)
    assert abs((believed == face).mean() - 0.5) < 0.15


def test_runs_without_readings_are_refused() -> None:
    row = PredictionRow(
        id="a", subset="video_aligned", label="sad", prediction="sad", benchmark="toy", model="zero_shot"
    )
    with pytest.raises(ValueError, match=r"answering.readings=true"):
        accuracies([row], LABELS)
