"""The first screen of a run report: one headline by the intervals, where it holds, and how far to trust it."""

from dataclasses import replace

import numpy as np
import pytest

from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.report.control import control_to_beat
from mosear.evaluation.report.verdict import FEW, verdict
from mosear.evaluation.summary import paired_differences, summarise
from tests.helpers.report_pages import LABELS, Page, make_rows, render

UP, DOWN, OPEN = Interval(0.1, 0.02, 0.2), Interval(-0.1, -0.2, -0.02), Interval(0.0, -0.1, 0.1)


def scored(rows):
    return summarise(rows, LABELS, benchmark="b", steering="none", seed=3, n_boot=100)


def found(difference=None, against_control=None, rows=None):
    rows = rows or make_rows("tuned", 0.6)
    lead = scored(rows)
    control = control_to_beat("tuned", lead, rows, LABELS)
    control = None if against_control is None else replace(control, control="late_fusion", difference=against_control)
    differences = {} if difference is None else {"consistent": OPEN, "video_aligned": UP, "conflict_mean": difference}
    return verdict("zero_shot", "tuned", differences, lead, control)


@pytest.mark.parametrize(
    ("difference", "against_control", "headline", "css"),
    [
        (UP, UP, "Better than zero-shot and than late fusion, the strongest control", "better"),
        (UP, OPEN, "Better than zero-shot, no clear difference from late fusion, the strongest control", "unclear"),
        (UP, DOWN, "Better than zero-shot, worse than late fusion, the strongest control", "worse"),
        (OPEN, OPEN, "No clear difference from zero-shot and from late fusion, the strongest control", "unclear"),
        (DOWN, UP, "Worse than zero-shot, better than late fusion, the strongest control", "worse"),
        (DOWN, DOWN, "Worse than zero-shot and than late fusion, the strongest control", "worse"),
        (UP, None, "Better than zero-shot", "better"),
        (None, UP, "Better than late fusion, the strongest control", "better"),
        (None, DOWN, "Worse than late fusion, the strongest control", "worse"),
    ],
)
def test_the_headline_follows_the_two_intervals(difference, against_control, headline, css):
    answer = found(difference, against_control)
    assert (answer.headline, answer.css) == (headline, css)


def test_without_anything_to_compare_with_the_headline_is_the_score():
    rows = make_rows("tuned", 0.7, subsets=("other",), readings=False)
    answer = found(rows=rows)
    share = 100 * np.mean([row.correct for row in rows])
    assert answer.headline == f"{share:.1f} % right on other clips" and answer.css == "unclear"


def test_it_says_on_which_subsets():
    assert "By subset: better on video aligned (+10.0 [+2.0, +20.0]); no clear change on consistent." in (
        found(OPEN).sentences
    )


def told(rows):
    return {fact.sentence: fact for fact in found(OPEN, rows=rows).facts}


def test_what_speaks_against_trust_is_told_apart_from_what_does_not():
    rows = [replace(row, prediction=row.label, unparsed_reason=None) for row in make_rows("tuned", 0.5)]
    facts = told(rows)
    assert facts["120 clips, at least 40 in each of 3 subsets."].css == "better"
    assert facts["All 120 answers could be read."].css == "better"
    assert facts["No test clip was quarantined."].css == "better"
    assert facts["One seed (3): intervals are over clips; another training run may differ."].css == "unclear"
    few = rows[: 40 + FEW - 1]
    assert told(few)[f"{len(few)} clips, only {FEW - 1} in the smallest of 2 subsets: intervals are rough."].css == (
        "unclear"
    )
    rows[0] = replace(rows[0], prediction=None, unparsed_reason="no label")
    rows[1] = replace(rows[1], prediction=None, unparsed_reason="bad media: truncated")
    facts = told(rows)
    assert facts["1 of 119 answers could not be read; they count as wrong."].css == "unclear"
    assert facts["1 of 120 clips could not be used (quarantined); they count as wrong."].css == "worse"


@pytest.mark.parametrize(
    ("against_control", "sentence", "css"),
    [
        (UP, "Tuned beats late fusion, the strongest control.", "better"),
        (DOWN, "Tuned does not beat late fusion, the strongest control.", "worse"),
        (OPEN, "Undecided whether tuned beats late fusion, the strongest control.", "unclear"),
        (None, "No control was measured (answering.readings=true reads each modality alone).", "unclear"),
    ],
)
def test_whether_a_control_is_beaten_is_among_the_facts(against_control, sentence, css):
    rows = make_rows("tuned", 0.6, readings=against_control is not None)
    fact = found(OPEN, against_control, rows=rows).facts[-1]
    assert (fact.sentence, fact.css) == (sentence, css)


def test_zero_shot_answers_have_no_training_seed():
    rows = make_rows("zero_shot", 0.6)
    answer = verdict("zero_shot", "zero_shot", {}, scored(rows), None)
    assert not [fact for fact in answer.facts if "seed" in fact.sentence]


def test_the_page_opens_with_it(tmp_path):
    systems = {"zero_shot": make_rows("zero_shot", 0.3), "tuned": make_rows("tuned", 0.9, seed=1)}
    html, summaries = render(tmp_path, systems, files={"bad clips": tmp_path / "quarantine.jsonl"})
    page = Page(html)
    control = control_to_beat("tuned", summaries["tuned"], systems["tuned"], LABELS)
    differences = paired_differences(systems["zero_shot"], systems["tuned"])
    answer = verdict("zero_shot", "tuned", differences, summaries["tuned"], control)
    order = [answer.headline, *answer.sentences, *(fact.sentence for fact in answer.facts), "Conflict mean"]
    places = [page.words.index(part) for part in order]
    assert places == sorted(places)
    assert page.words.index("Difference: tuned minus zero-shot") < page.words.index("Accuracy by subset")
    assert ("a", "href", "quarantine.jsonl") in page.attributes
