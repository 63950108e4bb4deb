"""The control to beat: its interval, the paired difference from it, and the verdict in words."""

from dataclasses import replace

import numpy as np
import pytest

from mosear.evaluation import bootstrap
from mosear.evaluation.report.control import control_to_beat
from mosear.evaluation.report.text import percent, points
from mosear.evaluation.summary import CONFLICT_SUBSETS, summarise
from tests.helpers.report_pages import LABELS, Page, make_rows, render


def rows_with(model_right: float, control_right: float):
    """Rows whose face and voice alone are right together with a given probability, and the answers with another."""
    rng = np.random.default_rng(5)

    def one(row):
        truth = LABELS.index(row.label)
        read = np.full(3, 0.1)
        read[truth if rng.random() < control_right else (truth + 1) % 3] = 0.8
        answer = truth if rng.random() < model_right else (truth + 2) % 3
        return replace(row, p_visual=read.tolist(), p_audio=read.tolist(), p_text=None, prediction=LABELS[answer])

    return [one(row) for row in make_rows("tuned", 0.5)]


def scored(rows):
    return summarise(rows, LABELS, benchmark="b", steering="none", seed=0, n_boot=200)


@pytest.mark.parametrize(
    ("model", "control", "css", "words", "sentence"),
    [
        (0.95, 0.4, "better", "tuned beats it", "On conflicts, tuned beats late fusion, the strongest control"),
        (0.3, 0.9, "worse", "tuned does not beat it", "On conflicts, tuned does not beat late fusion, the strongest"),
        (0.6, 0.6, "unclear", "undecided whether tuned beats it", "On conflicts, it is undecided whether tuned beats"),
    ],
)
def test_the_page_says_whether_the_control_is_beaten(tmp_path, model, control, css, words, sentence):
    rows = rows_with(model, control)
    html, summaries = render(tmp_path, {"tuned": rows})
    found = control_to_beat("tuned", summaries["tuned"], rows, LABELS)
    assert (found.css, found.verdict) == (css, words)
    page = Page(html).words
    assert words in page and sentence in page and "Control to beat" in page
    mean, low, high = found.difference
    assert f"{points(mean)} points, 95 % interval {points(low)} to {points(high)}" in page
    low, high = summaries["tuned"]["control_intervals"]["late_fusion"]["conflict_mean"]
    assert f"conflict mean of late fusion, 95 % interval {percent(low)} to {percent(high)}" in page


def test_the_difference_is_the_paired_bootstrap_over_the_same_clips():
    rows = rows_with(0.6, 0.7)
    summary = scored(rows)
    found = control_to_beat("tuned", summary, rows, LABELS)
    hits = {
        side: {
            subset: [
                float((row.prediction if side == "model" else LABELS[int(np.argmax(row.p_visual))]) == row.label)
                for row in rows
                if row.subset == subset
            ]
            for subset in CONFLICT_SUBSETS
        }
        for side in ("model", "control")
    }
    expected = bootstrap.paired_difference(hits["model"], hits["control"], bootstrap.conflict_mean_statistic)
    assert found.difference == expected
    assert found.difference.mean == pytest.approx(summary["conflict_mean"] - found.score.mean)
    assert found.score.mean == summary["controls"]["late_fusion"]["conflict_mean"]


def test_the_strongest_control_is_the_one_to_beat():
    rows = [replace(row, p_text=[1.0 * (name == row.label) for name in LABELS]) for row in make_rows("tuned", 0.5)]
    found = control_to_beat("tuned", scored(rows), rows, LABELS)
    assert found.control == "late_fusion_transcript"


@pytest.mark.parametrize("options", [{"readings": False}, {"subsets": ("consistent",)}])
def test_without_controls_or_conflicts_there_is_none(tmp_path, options):
    rows = make_rows("tuned", 0.5, **options)
    html, summaries = render(tmp_path, {"tuned": rows})
    assert control_to_beat("tuned", summaries["tuned"], rows, LABELS) is None
    assert "Control to beat" not in html
