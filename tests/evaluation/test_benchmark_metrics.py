"""Metrics by name are the pure functions on the right columns, and unreadable answers are wrong in all of them."""

from __future__ import annotations

import math
import random
import re
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
    for name, found in benchmark_scores([name for name in METRICS if name != "direction"], cut).items():
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
