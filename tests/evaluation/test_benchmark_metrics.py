"""Metrics by name are the pure functions on the right columns, and unreadable answers are wrong in all of them."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mosear.data.clip import Clip
from mosear.evaluation import metrics
from mosear.evaluation.benchmark_metrics import METRICS, Answers, benchmark_scores, benchmark_table
from mosear.evaluation.benchmark_metrics.conflict import CAMER_PARTS
from mosear.evaluation.metrics.classification import confusion_matrix
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report import write_report
from mosear.evaluation.summary import summarise
from tests.helpers.kinds import CLASSES, EMOTIONS, LISTS, rows_of

LABELS = ("negative", "neutral", "positive")
LEVELS = {"negative": -0.6, "neutral": 0.0, "positive": 0.5}
WORDS = {"negative": ("gloomy", "sad"), "neutral": ("calm",), "positive": ("glad",)}


def row(clip_id: str, subset: str, label: str, prediction: str | None, **options) -> PredictionRow:
    reason = "no label" if prediction is None else None
    common = {"benchmark": "b", "model": "tuned", "unparsed_reason": reason}
    return PredictionRow(id=clip_id, subset=subset, label=label, prediction=prediction, **common, **options)


def drawn(seed: int, *, text: bool = False, bound: float = 1.0) -> Answers:
    """Random answers in CA-MER's subsets; about one in six cannot be read."""
    rng = random.Random(seed)
    rows, clips = [], {}
    for number in range(60):
        label, said = rng.choice(LABELS), rng.choice((*LABELS, *LABELS, None))
        score = {"negative": -1, "neutral": 0, "positive": 1}[label] * rng.choice((0.2, 0.5, bound))
        clip = Clip(id=f"c{number}", text="x", label=label, labels=WORDS[label], score=score)
        shares = [rng.random() for _ in LABELS]
        answer = {"answer_text": f"[{said}, glad]"} if text else {"distribution": [s / sum(shares) for s in shares]}
        rows.append(row(clip.id, CAMER_PARTS[number % 3], label, said, **answer))
        clips[clip.id] = clip
    return Answers(rows=rows, labels=LABELS, clips=clips, levels=LEVELS, synonyms={"Negative": "gloomy"})


def parts(answers: Answers) -> dict[str, list[PredictionRow]]:
    groups = {name: [r for r in answers.rows if r.subset == name] for name in CAMER_PARTS}
    return groups | {"overall": list(answers.rows)}


def pair(rows) -> tuple[list[str], list[str | None]]:
    return [r.label for r in rows], [r.prediction for r in rows]


@pytest.mark.parametrize("seed", range(3))
def test_closed_sets(seed):
    answers = drawn(seed)
    found = benchmark_scores(["accuracy", "weighted_f1", "macro_f1", "uar", "war_uar", "skew"], answers)
    for part, rows in parts(answers).items():
        for name in ("accuracy", "weighted_f1", "macro_f1", "uar"):
            value = getattr(metrics, name)(*pair(rows), LABELS)
            unparsed = sum(r.prediction is None for r in rows)
            assert found[name][part] == {"n": len(rows), name: value, "unparsed": unparsed}
        assert found["war_uar"][part]["war"] == found["accuracy"][part]["accuracy"]
        assert found["war_uar"][part]["uar"] == found["uar"][part]["uar"]
        assert found["skew"][part] == metrics.skew_summary(confusion_matrix(*pair(rows), LABELS))


@pytest.mark.parametrize("seed", range(3))
def test_camer(seed):
    answers = drawn(seed)
    found = benchmark_scores(["camer"], answers)["camer"]
    accuracies = {name: metrics.accuracy(*pair(rows), LABELS) for name, rows in parts(answers).items()}
    assert {name: found[name]["accuracy"] for name in CAMER_PARTS} == {n: accuracies[n] for n in CAMER_PARTS}
    assert found["summary"] == metrics.camer_summary(accuracies)


@pytest.mark.parametrize("seed", range(3))
def test_camer_by_sets_of_words(seed):
    """By hand: "gloomy" is what "negative" is mapped to, and "glad" is in every answer."""
    answers = drawn(seed, text=True)
    found = benchmark_scores(["camer_set"], answers)["camer_set"]
    for name in CAMER_PARTS:
        precision = recall = 0.0
        for r in (own := [r for r in answers.rows if r.subset == name]):
            said = {"glad", {"negative": "gloomy", None: "none"}.get(r.prediction, r.prediction)}
            gold = set(answers.clips[r.id].labels)
            precision += len(said & gold) / len(said) / len(own)
            recall += len(said & gold) / len(gold) / len(own)
        assert found[name]["precision"] == pytest.approx(precision)
        assert found[name]["recall"] == pytest.approx(recall)
        assert found[name]["avg"] == pytest.approx((precision + recall) / 2)
    assert found["summary"] == metrics.camer_summary({name: found[name]["avg"] for name in CAMER_PARTS})


def literal_scores(answers: Answers, rows, wrong) -> tuple[list[float], list[float]]:
    truth, predicted = [], []
    for r in rows:
        y = answers.clips[r.id].score
        truth.append(y)
        if r.prediction is None:
            predicted.append(wrong(y))
        elif r.answer_text is not None:
            predicted.append(LEVELS[r.prediction])
        else:
            predicted.append(-0.6 * r.distribution[0] + 0.5 * r.distribution[2])
    return truth, predicted


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    ("name", "function", "bound", "wrong"),
    [
        ("mosi", metrics.mosi_scores, 3.0, lambda y: -3.0 if y >= 0 else 3.0),
        ("sims", metrics.sims_scores, 1.0, lambda y: -1.0 if y > 0 else 1.0),
    ],
)
def test_sentiment_is_the_expected_level(name, function, bound, wrong, text):
    answers = drawn(4, text=text, bound=bound)
    found = benchmark_scores([name], answers)[name]
    for part, rows in parts(answers).items():
        expected = function(*literal_scores(answers, rows, wrong))
        assert {key: found[part][key] for key in expected} == pytest.approx(expected, nan_ok=True)
        assert found[part]["unparsed"] == sum(r.prediction is None for r in rows)


def test_emomm_and_mer2023():
    answers = drawn(5)
    found = benchmark_scores(["emomm", "mer2023"], answers)
    truth, predicted = literal_scores(answers, answers.rows, lambda y: None)
    assert found["emomm"] == metrics.emomm_scores(truth, predicted, [r.subset for r in answers.rows])
    for part, rows in parts(answers).items():
        error = metrics.mse(*literal_scores(answers, rows, lambda y: -5.0 if y >= 0 else 5.0))
        f1 = metrics.weighted_f1(*pair(rows), LABELS)
        assert found["mer2023"][part]["weighted_f1"] == f1
        assert found["mer2023"][part]["valence_mse"] == pytest.approx(error)
        assert found["mer2023"][part]["score"] == pytest.approx(f1 - 0.25 * error)


def test_mer2023_scores_valence_only_where_every_clip_has_one():
    answers = drawn(6)
    first = next(iter(answers.clips))
    answers = Answers(
        rows=answers.rows,
        labels=LABELS,
        clips={**answers.clips, first: Clip(id=first, text="x", label=answers.rows[0].label)},
        levels=LEVELS,
    )
    found = benchmark_scores(["mer2023"], answers)["mer2023"]
    assert {part for part, own in found.items() if "score" in own} == {"video_aligned", "audio_aligned"}


@pytest.mark.parametrize("name", ["mosi", "sims"])
def test_an_unreadable_answer_is_wrong_by_every_definition(name):
    """Any score on any clip: no accuracy counts it as right, and no error is larger."""
    bound = 3.0 if name == "mosi" else 1.0
    for y in (-bound, -bound / 5, -0.05, 0.0, 0.05, bound / 5, bound):
        answers = Answers(
            rows=[row("a", "all", "neutral", None)],
            labels=LABELS,
            clips={"a": Clip(id="a", text="x", label="neutral", score=y)},
            levels=LEVELS,
        )
        found = benchmark_scores([name], answers)[name]["overall"]
        shares = [value for key, value in found.items() if re.match("acc|f1", key) and not math.isnan(value)]
        assert shares and not any(shares), (y, found)
        assert found["mae"] >= bound and found["unparsed"] == 1


def test_one_subset_is_the_whole():
    assert list(
        benchmark_scores(["uar"], Answers(rows=[row("a", "all", *LABELS[:2])], labels=LABELS, clips={}))["uar"]
    ) == ["overall"]


def test_rows_of_a_subset_may_be_absent():
    answers = drawn(7)
    cut = Answers(rows=answers.rows[:2], labels=LABELS, clips=answers.clips, levels=LEVELS)
    # These clips have no labels of face and voice, without which there is no direction: tests/evaluation/test_bias.py.
    names = [name for name, metric in METRICS.items() if name != "direction" and metric.unfit("label") is None]
    for name, found in benchmark_scores(names, cut).items():
        assert found, name
    summary = benchmark_scores(["camer"], cut)["camer"]["summary"]
    assert math.isnan(summary["gap"]) and math.isnan(summary["overall"])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("uab", {}, "unknown benchmark metrics uab; there are accuracy, weighted_f1"),
        (
            "mosi",
            {"levels": {"negative": -1.0}},
            "mosi: levels must give a score to exactly the labels negative, neutral",
        ),
        ("sims", {"clips": {"a": Clip(id="a", text="x", label="neutral")}}, "sims: clip 'a' has no score"),
        ("emomm", {"clips": {"a": Clip(id="a", text="x", label="neutral")}}, "emomm: clip 'a' has no score"),
        ("camer_set", {"clips": {"a": Clip(id="a", text="x", label="neutral")}}, "clip 'a' has no words to find"),
        ("uar", {"rows": [row("a", "overall", "neutral", None)]}, "uar: a subset is called 'overall'"),
    ],
)
def test_what_is_lacking_is_named(name, changes, message):
    options = {"rows": [row("a", "consistent", "neutral", "neutral", answer_text="calm")], "labels": LABELS}
    options |= {"levels": LEVELS, "clips": {"a": Clip(id="a", text="x", label="neutral", score=0.0)}}
    with pytest.raises(ValueError, match=re.escape(message)):
        benchmark_scores([name], Answers(**(options | changes)))


@pytest.mark.parametrize("seed", range(3))
def test_label_sets(seed):
    rows = rows_of("labels", seed=seed, subsets=CAMER_PARTS)
    found = benchmark_scores(["multilabel"], Answers(rows=rows, labels=EMOTIONS, clips={}))["multilabel"]
    assert list(found) == [*CAMER_PARTS, "overall"]
    for part, numbers in found.items():
        own = [r for r in rows if part in (r.subset, "overall")]
        truth, said = (
            [[int(name in (sets or ())) for name in EMOTIONS] for sets in column]
            for column in ([r.labels for r in own], [r.predicted_labels for r in own])
        )
        assert numbers == metrics.multilabel_scores(truth, said) | {"unparsed": sum(r.prediction is None for r in own)}
        assert numbers["jaccard"] == pytest.approx(sum(r.credit for r in own) / len(own))
        pairs = [(y, p) for t, s in zip(truth, said, strict=True) for y, p in zip(t, s, strict=True)]
        hits = pairs.count((1, 1))
        assert numbers["micro_precision"] == pytest.approx(hits / (hits + pairs.count((0, 1))))
        assert numbers["micro_recall"] == pytest.approx(hits / (hits + pairs.count((1, 0))))


def test_series():
    rows = rows_of("series", subsets=CAMER_PARTS)
    found = benchmark_scores(["affwild"], Answers(rows=rows, labels=CLASSES, clips={}))["affwild"]
    for part, numbers in found.items():
        own = [r for r in rows if part in (r.subset, "overall")]
        for place, name in enumerate(("valence", "arousal")):
            truth, said = [], []
            for r in own:
                for step, true in enumerate(r.series):
                    if true[place] is not None:
                        truth.append(true[place])
                        unread = -1 if true[place] >= 0 else 1
                        said.append(r.predicted_series[step][place] if r.predicted_series else unread)
            assert numbers[f"ccc_{name}"] == metrics.ccc(truth, said, ignore=None)
            assert numbers[f"steps_{name}"] == len(truth) < sum(len(r.series) for r in own)
        assert numbers["ccc"] == metrics.affwild_score(numbers["ccc_valence"], numbers["ccc_arousal"])
    nothing = replace(rows[1], series=[(None, None)], predicted_series=[(0.0, 0.0)])
    empty = benchmark_scores(["affwild"], Answers(rows=[nothing], labels=CLASSES, clips={}))["affwild"]["overall"]
    assert math.isnan(empty["ccc"]) and empty["n"] == 1 and empty["steps_valence"] == 0


@pytest.mark.parametrize(
    ("name", "wrong"), [("mosi", lambda y: -3 if y >= 0 else 3), ("sims", lambda y: -1 if y > 0 else 1)]
)
def test_predicted_scores_need_no_levels_and_no_clips(name, wrong):
    rows = rows_of("score", subsets=["all"])
    found = benchmark_scores([name], Answers(rows=rows, labels=CLASSES, clips={}))[name]["overall"]
    said = [wrong(r.score) if r.predicted_score is None else r.predicted_score for r in rows]
    expected = getattr(metrics, f"{name}_scores")([r.score for r in rows], said)
    assert found == expected | {"unparsed": 1} and found["mae"] != 0


def test_mer2023_takes_predicted_valences():
    rows = rows_of("score", subsets=["all"])
    found = benchmark_scores(["mer2023"], Answers(rows=rows, labels=CLASSES, clips={}))["mer2023"]["overall"]
    errors = [5 + abs(r.score) if r.predicted_score is None else r.score - r.predicted_score for r in rows]
    assert found["valence_mse"] == pytest.approx(sum(e * e for e in errors) / len(rows))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("uar", "labels", "it reads predictions of the kinds label, score, series, and these are of the kind labels"),
        ("multilabel", "score", "multilabel: it reads predictions of the kinds labels"),
        ("affwild", "label", "affwild: it reads predictions of the kinds series"),
    ],
)  # fmt: skip
def test_a_metric_says_what_it_cannot_read(name, kind, message):
    answers = Answers(rows=rows_of(kind), labels=LISTS[kind], clips={})
    with pytest.raises(ValueError, match=message):
        benchmark_scores([name], answers)


def test_closed_metrics_read_the_classes_of_scores_and_series():
    for kind in ("score", "series"):
        rows = rows_of(kind, subsets=["all"])
        found = benchmark_scores(["uar"], Answers(rows=rows, labels=CLASSES, clips={}))["uar"]["overall"]
        assert found["uar"] == metrics.uar(*pair(rows), CLASSES)


def test_the_report_has_a_table_per_metric(tmp_path):
    answers = drawn(8)
    summary = summarise(answers.rows, LABELS, benchmark="b", steering="none", seed=0, n_boot=50)
    summary["benchmark_metrics"] = benchmark_scores(["uar", "camer"], answers)
    common = {"title": "t", "run_info": {}, "labels": LABELS}
    for name, scores in (
        ("with", summary),
        ("without", {k: v for k, v in summary.items() if k != "benchmark_metrics"}),
    ):
        write_report(tmp_path / name, summaries={"tuned": scores}, predictions={"tuned": answers.rows}, **common)
    page = (tmp_path / "with").read_text()
    assert "Benchmark metrics" not in (tmp_path / "without").read_text()
    section = page[page.index(">Benchmark metrics</h2>") : page.rindex("Confusion matrices")]
    assert f"{summary['benchmark_metrics']['camer']['summary']['gap']:.3f}" in section
    assert f"{summary['benchmark_metrics']['uar']['overall']['uar']:.3f}" in section
    assert section.count("<table>") == 2 and "–" in section  # the summary has no n
    assert len(benchmark_table(summary["benchmark_metrics"]).rows) == 4 + 4


def test_the_documentation_lists_every_metric():
    text = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    section = text[text.index("**Metrics.**") : text.index("## Importing predictions")]
    assert re.findall(r"^\| `(\w+)` \|", section, re.M) == list(METRICS)
