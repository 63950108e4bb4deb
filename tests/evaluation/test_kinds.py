"""Sets of labels, scores and series: their rows on disk, and their numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from mosear.evaluation import metrics
from mosear.evaluation.kinds import SCORINGS, annotated
from mosear.evaluation.predictions import PredictionRow, joined, kind_of, read_predictions, write_predictions
from mosear.evaluation.summary import paired_differences, summarise, write_metrics
from tests.helpers.kinds import EMOTIONS, LISTS, rows_of, unread

KINDS = ("label", "labels", "score", "series")
NEW = ("labels", "predicted_labels", "score", "predicted_score", "series", "predicted_series")


def summary_of(rows, kind):
    return summarise(rows, LISTS[kind], benchmark="made up", steering="none", seed=0, n_boot=100)


def a_set(truth, found, **options):
    options = {"id": "c", "subset": "all", "benchmark": "b", "model": "tuned"} | options
    answer = {"prediction": None, "unparsed_reason": "why"}
    if found is not None:
        answer = {"prediction": joined(found, EMOTIONS), "predicted_labels": found}
    return PredictionRow(label=joined(truth, EMOTIONS), labels=truth, **answer, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_back_as_they_were(kind, tmp_path):
    rows = rows_of(kind)
    assert kind_of(rows) == kind and {row.kind for row in rows} == {kind}
    write_predictions(rows, LISTS[kind], tmp_path / "p")
    assert read_predictions(tmp_path / "p") == (rows, list(LISTS[kind]))
    table = pq.read_table(tmp_path / "p")
    filled = {name for name in NEW if table.column(name).null_count < len(rows)}
    assert filled == ({kind, f"predicted_{kind}"} if kind != "label" else set())
    assert table.column("correct").to_pylist() == [row.correct for row in rows]


def test_files_without_the_new_columns_are_read(tmp_path):
    rows = rows_of("label")
    write_predictions(rows, EMOTIONS, tmp_path / "p")
    pq.write_table(pq.read_table(tmp_path / "p").drop_columns(list(NEW)), tmp_path / "old")
    assert read_predictions(tmp_path / "old")[0] == rows


def test_numpy_numbers_and_tuples_are_written(tmp_path):
    row = replace(rows_of("score")[1], score=np.float32(0.5), predicted_score=np.float32(0.25))
    write_predictions([row], LISTS["score"], tmp_path / "p")
    assert read_predictions(tmp_path / "p")[0][0].predicted_score == 0.25
    one = replace(rows_of("series")[1], series=np.zeros((1, 2)), predicted_series=np.ones((1, 2)))
    write_predictions([one], LISTS["series"], tmp_path / "q")
    assert read_predictions(tmp_path / "q")[0][0].predicted_series == [(1.0, 1.0)]
    sets = a_set(("happy", "fear"), ())
    write_predictions([sets], EMOTIONS, tmp_path / "r")
    assert read_predictions(tmp_path / "r")[0] == [replace(sets, labels=["happy", "fear"], predicted_labels=[])]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("labels", {"labels": ["joy"], "label": "joy"}, r"labels are \['joy'\]: they must be in"),
        ("labels", {"labels": ["happy", "happy"], "label": "happy"}, "each once"),
        ("labels", {"labels": ["happy"], "label": "sad"}, "written 'sad'; write 'happy'"),
        ("labels", {"predicted_labels": None}, "predicted_labels is None"),
        ("labels", {"predicted_score": 1.0}, "predicted_score is 1.0 beside score=None"),
        ("label", {"predicted_labels": []}, r"predicted_labels is \[\] beside labels=None"),
        ("score", {"score": math.nan}, "score is nan; a score is a finite number"),
        ("score", {"predicted_score": math.inf}, "an answer without one is prediction=None"),
        ("score", {"prediction": None, "unparsed_reason": "why"}, "there is a prediction"),
        ("score", {"label": "joy"}, "'joy'"),
        ("series", {"predicted_series": [(0.0, 0.0)] * 99}, "has 99 steps for"),
        ("series", {"series": [(math.nan, 0.0)], "predicted_series": [(0.0, 0.0)]}, "write None where"),
        ("series", {"series": [(0.5, 0.0)], "predicted_series": [(None, 0.0)]}, "valence is annotated but not"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(kind, changes, message, tmp_path):
    row = replace(rows_of(kind)[1], **changes)
    with pytest.raises(ValueError, match=f"clip .*{message}"):
        write_predictions([row], LISTS[kind], tmp_path / "p")
    assert not list(tmp_path.iterdir())


def test_kinds_are_not_mixed(tmp_path):
    rows = [rows_of("label")[1], rows_of("labels", subsets=["other"])[1]]
    for use in (
        lambda: write_predictions(rows, EMOTIONS, tmp_path / "p"),
        lambda: summary_of(rows, "label"),
        lambda: paired_differences(rows[:1], rows[1:]),
    ):
        with pytest.raises(ValueError, match=r"of several kinds \(label, labels\)"):
            use()


@pytest.mark.parametrize(
    ("truth", "found", "credit", "correct"),
    [
        (["happy", "fear"], ["fear", "happy"], 1.0, True),
        (["happy", "fear"], ["fear", "angry"], 1 / 3, False),
        (["happy"], [], 0.0, False),
        ([], ["happy"], 0.0, False),
        ([], [], 0.0, True),  # right, but 0 in the published mean
        ([], None, 0.0, False),
        (["happy"], None, 0.0, False),
    ],
)
def test_credit_of_a_set_is_its_overlap(truth, found, credit, correct):
    row = a_set(truth, found)
    assert (row.credit, row.correct) == (credit, correct)
    pair = [metrics.indicators([own or []], EMOTIONS) for own in (truth, found)]
    assert row.credit == metrics.sample_jaccard(*pair)


def test_a_label_that_is_called_none_is_not_the_empty_set():
    common = {"id": "c", "subset": "all", "benchmark": "b", "model": "tuned", "label": "none", "prediction": "none"}
    assert not PredictionRow(**common, labels=["none"], predicted_labels=[]).correct


def test_numbers_of_sets_are_those_of_scikit_learn():
    rows = [*rows_of("labels", clips=60, subsets=["all"]), a_set([], []), a_set([], ["fear"], id="d")]
    scores = summary_of(rows, "labels")["subsets"]["all"]
    truth = np.array([[name in row.labels for name in EMOTIONS] for row in rows])
    found = np.array([[name in (row.predicted_labels or ()) for name in EMOTIONS] for row in rows])
    options = {"average": "micro", "zero_division": 0}
    expected = {
        "accuracy": jaccard_score(truth, found, average="samples", zero_division=0),
        "exact": sum(row.correct for row in rows) / len(rows),
        "micro_precision": precision_score(truth, found, **options),
        "micro_recall": recall_score(truth, found, **options),
        "micro_f1": f1_score(truth, found, **options),
        "macro_f1": f1_score(truth, found, average="macro", zero_division=0),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert (scores["n"], scores["unparsed"]) == (62, 1) and "confusion" not in scores and "uar" not in scores
    assert scores["interval"][0] < scores["accuracy"] < scores["interval"][1]
    assert scores["accuracy"] == pytest.approx(np.mean([row.credit for row in rows]))


def test_numbers_of_scores_leave_unread_clips_out_and_say_how_many():
    rows = rows_of("score", subsets=["all"])
    scores = summary_of(rows, "score")["subsets"]["all"]
    truth, found = [r.score for r in rows[1:]], [r.predicted_score for r in rows[1:]]
    for name in ("mae", "mse", "pearson"):
        assert scores[name] == getattr(metrics, name)(truth, found)
    assert scores["ccc"] == metrics.ccc(truth, found, ignore=None)
    labels = metrics.score_subset([r.label for r in rows], [r.prediction for r in rows], LISTS["score"])
    assert {name: scores[name] for name in labels} == labels and scores["unparsed"] == 1


def test_a_score_of_minus_five_is_a_score():
    rows = [
        PredictionRow(
            id=str(i), subset="all", label="negative", prediction="negative", score=-5.0 * i, predicted_score=-4.0 * i,
            benchmark="b", model="tuned",
        )
        for i in range(3)
    ]  # fmt: skip
    scores = summary_of(rows, "score")["subsets"]["all"]
    assert scores["ccc"] == metrics.ccc([0, -5, -10], [0, -4, -8], ignore=None) < 1


def test_concordance_is_over_all_annotated_steps_of_a_subset():
    rows = rows_of("series", subsets=["all"])
    scores = summary_of(rows, "series")["subsets"]["all"]
    for place, name in enumerate(("valence", "arousal")):
        pairs = [
            (true[place], said[place])
            for row in rows
            if row.predicted_series is not None
            for true, said in zip(row.series, row.predicted_series, strict=True)
            if true[place] is not None
        ]
        y, p = np.array(pairs).T
        literal = 2 * np.cov(y, p, bias=True)[0, 1] / (y.var() + p.var() + (y.mean() - p.mean()) ** 2)
        assert scores[f"ccc_{name}"] == pytest.approx(literal)
        assert (list(y), list(p)) == annotated(rows, place)
    assert scores["ccc"] == (scores["ccc_valence"] + scores["ccc_arousal"]) / 2
    assert scores["n"] == 30 and scores["unparsed"] == 1


@pytest.mark.parametrize(
    ("kind", "undefined"),
    [("score", ("mae", "mse", "pearson", "ccc")), ("series", ("ccc_valence", "ccc_arousal", "ccc"))],
)
def test_what_nothing_defines_is_null(kind, undefined, tmp_path):
    rows = [unread(row) for row in rows_of(kind)]
    summary = summary_of(rows, kind)
    write_metrics(summary, tmp_path / "metrics.json")
    subsets = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)["subsets"]
    for scores in subsets.values():
        assert {scores[name] for name in undefined} == {None}
        assert scores["unparsed"] == scores["n"] == 30 and scores["accuracy"] == 0


def test_all_sets_unread(tmp_path):
    scores = summary_of([unread(row) for row in rows_of("labels")], "labels")["subsets"]["consistent"]
    zeros = {"accuracy": 0, "exact": 0, "micro_precision": 0, "micro_recall": 0, "micro_f1": 0, "macro_f1": 0}
    own = {name: [0, 0] for name in zeros if name != "accuracy"}
    assert scores == zeros | {"n": 30, "unparsed": 30, "quarantined": 0, "interval": [0, 0], "intervals": own}


def test_short_and_unannotated_series(tmp_path):
    common = {"subset": "all", "benchmark": "b", "model": "tuned", "label": "positive", "prediction": "positive"}
    nothing = PredictionRow(id="a", series=[(None, None)] * 2, predicted_series=[(0.1, 0.2)] * 2, **common)
    one = PredictionRow(id="b", series=[(0.5, None)], predicted_series=[(0.5, None)], **common)
    write_predictions([nothing, one], LISTS["series"], tmp_path / "p")
    assert read_predictions(tmp_path / "p")[0] == [nothing, one]
    alone = summary_of([nothing], "series")["subsets"]["all"]
    assert math.isnan(alone["ccc_valence"]) and math.isnan(alone["ccc"]) and alone["n"] == 1
    both = summary_of([nothing, one], "series")["subsets"]["all"]
    assert math.isnan(both["ccc_valence"])  # one step has no variance
    assert annotated([nothing, one], 0) == ([0.5], [0.5]) and annotated([nothing, one], 1) == ([], [])
    empty = replace(one, series=[], predicted_series=[])
    assert math.isnan(summary_of([empty], "series")["subsets"]["all"]["ccc"])


def test_conflict_mean_and_differences_of_sets_use_their_overlap():
    before, after = rows_of("labels", noise=0.5), rows_of("labels", noise=0.1)
    summary = summary_of(after, "labels")
    means = [
        np.mean([row.credit for row in after if row.subset == subset]) for subset in ("video_aligned", "audio_aligned")
    ]
    assert summary["conflict_mean"] == pytest.approx(np.mean(means))
    assert summary["kind"] == "labels"
    differences = paired_differences(before, after, n_boot=100)
    assert differences["conflict_mean"].mean == pytest.approx(
        summary["conflict_mean"] - summary_of(before, "labels")["conflict_mean"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_late_fusion_is_a_control_of_single_labels_alone(kind):
    width = len(LISTS[kind])
    rows = [
        replace(row, p_visual=[1 / width] * width, p_audio=[1 / width] * width, p_text=None) for row in rows_of(kind)
    ]
    assert bool(summary_of(rows, kind)["controls"]) == (kind == "label")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_intervals_are_those_of_a_slow_bootstrap(kind):
    rows = rows_of(kind, subsets=["all"], noise=0.4)
    scores = summarise(rows, LISTS[kind], benchmark="b", steering="none", seed=3, n_boot=200)["subsets"]["all"]
    rng, drawn = np.random.default_rng(3), []
    for picks in rng.integers(0, len(rows), (200, len(rows))):
        sample = [replace(rows[i], id=str(n)) for n, i in enumerate(picks)]
        drawn.append(SCORINGS[kind].score(sample, LISTS[kind]))
    assert scores["intervals"].keys() == {number.key for number in SCORINGS[kind].own_numbers()}
    for name, bounds in scores["intervals"].items():
        expected = np.quantile([own[name] for own in drawn], [0.025, 0.975])
        assert bounds == pytest.approx(list(expected)), name
        assert bounds[0] < scores[name] < bounds[1]


def test_single_labels_have_one_interval():
    assert "intervals" not in summary_of(rows_of("label"), "label")["subsets"]["consistent"]


@pytest.mark.parametrize("kind", ["score", "series"])
def test_an_interval_of_what_nothing_defines_is_null(kind):
    scores = summary_of([unread(row) for row in rows_of(kind)], kind)["subsets"]["consistent"]
    assert set(scores["intervals"].values()) == {None}


def test_a_constant_has_no_correlation_in_any_replicate():
    rows = [replace(row, predicted_score=0.1) for row in rows_of("score", subsets=["all"])[1:]]
    scores = summary_of(rows, "score")["subsets"]["all"]
    assert scores["intervals"]["pearson"] is None and scores["intervals"]["ccc"] == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_find_every_number(kind):
    scores = summary_of(rows_of(kind), kind)["subsets"]["consistent"]
    scoring = SCORINGS[kind]
    assert {number.key for number in scoring.numbers} <= scores.keys()
    assert scoring.numbers[0].key == "accuracy" and len(scoring.own_numbers()) == len(scoring.own)
