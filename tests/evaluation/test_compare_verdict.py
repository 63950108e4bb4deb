"""The first card of a comparison: headline by the corrected tests, one chart, and how far to trust it."""

from dataclasses import replace

import numpy as np
import pytest

from mosear.evaluation import bootstrap
from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.compare import compare
from mosear.evaluation.compare.collect import CONTROLS
from mosear.evaluation.report.compare_verdict import verdict_card
from mosear.evaluation.report.text import points
from mosear.evaluation.summary import CONFLICT_SUBSETS, by_subset, control_correctness
from tests.helpers.comparison_runs import write_run
from tests.helpers.report_pages import Page


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "0", model="zero_shot", accuracy=0.5, clips=40)
    write_run(folder / "1", experiment="good", accuracy=0.95, clips=40, seed=0)
    write_run(folder / "2", experiment="good", accuracy=0.95, clips=40, seed=1)
    write_run(folder / "3", experiment="same", accuracy=0.5, clips=40, seed=0)
    (one,) = compare([folder], folder / "page.html", clips=3, n_boot=2000)
    return one, Page((folder / "page.html").read_text(encoding="utf-8"))


def test_the_headline_names_what_is_clear_and_counts_what_is_not(compared):
    one, page = compared
    (good,) = [d for d in one.differences if d.system == "good" and d.key == "conflict_mean"]
    assert good.clear
    mean, low, high = map(points, good.interval)
    headline = f"Better than zero-shot on conflicts: good ({mean} points [{low}, {high}]); not clear: 1"
    assert verdict_card(one)["headline"] == headline
    assert page.words.index(headline) < page.words.index("Accuracy by subset")
    numbers = f"{mean} [{low}, {high}] better"
    assert page.words.index(headline) < page.words.index(numbers) < page.words.index("Accuracy by subset")


@pytest.mark.parametrize(
    ("changes", "css", "headline"),
    [
        ({}, "unclear", "No clear difference from zero-shot on conflicts (2 systems)"),
        (
            {"good": Interval(-0.2, -0.3, -0.1)},
            "worse",
            "Worse than zero-shot on conflicts: good (−20.0 points [−30.0, −10.0]); not clear: 1",
        ),
        (
            {"good": Interval(0.2, 0.1, 0.3), "same": Interval(-0.2, -0.3, -0.1)},
            "better",
            "Better than zero-shot on conflicts: good (+20.0 points [+10.0, +30.0]); "
            "worse than zero-shot on conflicts: same (−20.0 points [−30.0, −10.0])",
        ),
    ],
)
def test_it_follows_the_corrected_tests(compared, changes, css, headline):
    differences = [
        replace(d, interval=changes.get(d.system, d.interval), bootstrap_holm=0.01 if d.system in changes else 1.0)
        for d in compared[0].differences
    ]
    card = verdict_card(replace(compared[0], differences=differences))
    assert (card["css"], card["headline"]) == (css, headline)


def test_each_system_is_held_against_its_own_strongest_control(compared):
    one, page = compared
    system = one.benchmark.systems["same"]
    rows = sorted(system.runs[0].rows.values(), key=lambda row: row.id)
    groups = {subset: own for subset, own in by_subset(rows).items() if subset in CONFLICT_SUBSETS}
    hits = {subset: np.array([float(row.correct) for row in own]) for subset, own in groups.items()}
    controls = control_correctness(groups, one.benchmark.labels)
    strongest = max(controls, key=lambda name: np.mean([values.mean() for values in controls[name].values()]))
    expected = bootstrap.paired_difference(hits, controls[strongest], bootstrap.conflict_mean_statistic, n_boot=2000)
    control, found = one.against_controls["same"]
    assert control == strongest and found.mean == pytest.approx(expected.mean)
    assert found.low == pytest.approx(expected.low, abs=0.03) and found.high == pytest.approx(expected.high, abs=0.03)
    assert f"its {CONTROLS[control]} ({points(found.mean)})" in page.words
    beaten = sum(difference.low > 0 for _, difference in one.against_controls.values())
    assert f"{beaten} of 3 systems beat the strongest control made of their own unimodal readings" in page.words


def test_what_speaks_against_trust_is_told(compared, tmp_path):
    told = {fact.sentence: fact.css for fact in verdict_card(compared[0])["facts"]}
    assert told["120 clips, at least 40 in each of 3 subsets."] == "better"
    assert told["Some trained systems have one seed only: another training run may differ."] == "unclear"
    assert told["3 of 480 answers of all runs could not be read; they count as wrong."] == "unclear"
    for seed in (0, 1):
        write_run(tmp_path / str(seed), experiment="a", seed=seed, readings=False)
        write_run(tmp_path / f"b{seed}", experiment="b", seed=seed, readings=False)
    (one,) = compare([tmp_path], tmp_path / "page.html", clips=0, n_boot=50)
    told = {fact.sentence: fact.css for fact in verdict_card(one)["facts"]}
    assert told["60 clips, only 20 in the smallest of 3 subsets: intervals are rough."] == "unclear"
    assert told["2 seeds per trained system and backbone."] == "better"
    assert told["All 240 answers of all runs could be read."] == "better"
    assert told["No control was measured (answering.readings=true reads each modality alone)."] == "unclear"
