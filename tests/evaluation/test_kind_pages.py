"""Reports, comparisons and tables of label sets, scores and series; hostile text stays text."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from mosear.evaluation.aggregate import collect, differences, table
from mosear.evaluation.compare import compare
from mosear.evaluation.compare.clips import MOST_STEPS
from mosear.evaluation.compare.scores import confidences
from mosear.evaluation.kinds import SCORINGS
from mosear.evaluation.predictions import write_predictions
from mosear.evaluation.report import Example, write_report
from mosear.evaluation.report.verdict import NO_CONTROL, NO_SUCH_CONTROL
from mosear.evaluation.summary import comparison_table, summarise
from mosear.loggers.wandb_results import confusion_matrices, scores, subset_table
from mosear.runtime.results import single_table
from tests.helpers.kinds import EMOTIONS, EVIL, LISTS, rows_of, unread, write_run
from tests.helpers.report_pages import Page

KINDS = ("labels", "score", "series")


def summary_of(rows, kind):
    return summarise(rows, LISTS[kind], benchmark="made up", steering="none", seed=0, n_boot=50)


def report(tmp_path, kind, systems, ids):
    summaries = {name: summary_of(rows, kind) for name, rows in systems.items()}
    examples = [
        Example.from_rows({name: next(row for row in rows if row.id == one) for name, rows in systems.items()})
        for one in ids
    ]
    options = {"title": "t", "run_info": {}, "labels": LISTS[kind], "examples": examples}
    write_report(tmp_path / "report.html", summaries=summaries, predictions=systems, **options)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert EVIL not in html and "<script" not in html
    return Page(html), summaries


def two(kind):
    return {"zero_shot": rows_of(kind, model="zero_shot", noise=0.6), "tuned": rows_of(kind, noise=0.2)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_has_every_number_of_its_kind(kind, tmp_path):
    systems = two(kind)
    page, summaries = report(tmp_path, kind, systems, [systems["tuned"][i].id for i in (0, 1, 2)])
    scoring = SCORINGS[kind]
    for summary in summaries.values():
        for subset in summary["subsets"].values():
            for number in scoring.numbers:
                assert number.text(subset[number.key]) in page.words
    for words in (scoring.accuracy, scoring.note, NO_SUCH_CONTROL.sentence, *(n.heading for n in scoring.numbers)):
        assert words in page.words
    assert ("Confusion matrices" in page.words) == (kind != "labels")
    assert ("chance," in page.words) == (kind != "labels")
    assert "late fusion + transcript" not in page.words and NO_CONTROL.sentence not in page.words


@pytest.mark.parametrize("kind", [*KINDS, "label"])
def test_a_report_of_answers_that_were_all_unread(kind, tmp_path):
    rows = [unread(row) for row in rows_of(kind)]
    page, _ = report(tmp_path, kind, {"tuned": rows}, [rows[1].id])
    assert "90 of 90 answers could not be read" in page.words and "nan" not in page.words.lower().split()


def test_marks_of_sets_say_what_is_shared_added_and_missed(tmp_path):
    happy, sad, angry, fear = EMOTIONS
    row = replace(
        rows_of("labels")[1],
        labels=[happy, sad],
        label=f"{happy} + {sad}",
        predicted_labels=[happy, angry],
        prediction=f"{happy} + {angry}",
        distribution=[0.9, 0.2, 0.8, 0.1],
    )
    empty = replace(row, id="empty", labels=[], label="none", predicted_labels=[], prediction="none")
    page, _ = report(tmp_path, "labels", {"tuned": [row, empty]}, [row.id, "empty"])
    for words in (f"✓ {happy} + {angry} − {sad} (overlap 33.3 %)", f"True labels: {happy} + {sad}"):
        assert words in page.words
    assert "True labels: none" in page.words and "tuned: none (right)" in page.words and fear in page.words
    marks = [value for tag, name, value in page.attributes if tag == "span" and (value or "").startswith("mark ")]
    assert marks == ["mark right", "mark wrong", "mark missed"]
    bold = [value for tag, name, value in page.attributes if (tag, name) == ("tr", "class")]
    assert bold.count("true") == 2, "both true labels of the first clip, none of the second"
    top = [value for tag, name, value in page.attributes if (tag, name, value) == ("td", "class", "most")]
    assert len(top) == 2, "probabilities of predicted labels"


def labelled_graphics(page):
    return [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]


def test_scores_lie_on_one_scale(tmp_path):
    systems = two("score")
    rows = systems["tuned"][1:4]
    page, _ = report(tmp_path, "score", systems, [row.id for row in rows])
    plots = [label for label in labelled_graphics(page) if label.startswith("true score")]
    assert len(plots) == 3
    for row, label in zip(rows, plots, strict=True):
        assert label.startswith(f"true score {row.score:.2f}; ") and f"tuned {row.predicted_score:.2f}" in label
    lines = [value for tag, name, value in page.attributes if (tag, name, value) == ("line", "class", "truth")]
    dots = [value for tag, name, value in page.attributes if (tag, name) == ("circle", "class")]
    assert len(lines) == 3 and {"s0", "s1"} <= set(dots)
    assert "True class: " in page.words


def test_lines_of_series_have_gaps_where_nothing_is_annotated(tmp_path):
    common = {"label": LISTS["series"][0], "prediction": LISTS["series"][0]}
    row = replace(
        rows_of("series")[1],
        series=[(0.1, None), (0.2, None), (None, None), (0.4, None)],
        predicted_series=[(0.1, 0.0), (0.2, 0.1), (0.3, 0.2), (0.4, 0.3)],
        **common,
    )
    page, _ = report(tmp_path, "series", {"tuned": [row]}, [row.id])
    titles = re.findall(r"(true|tuned), steps (\d+) to (\d+)", page.words)
    valence = [("true", "0", "1"), ("true", "3", "3"), ("tuned", "0", "3")]
    assert titles == [*valence, ("tuned", "0", "3")], "arousal was never annotated"
    assert {"valence by step: true, tuned", "arousal by step: true, tuned"} <= set(labelled_graphics(page))
    one = replace(row, id="one", series=[(0.5, 0.5)], predicted_series=[(0.4, 0.6)])
    none = replace(row, id="none", series=[(None, None)], predicted_series=[(None, None)])
    page, _ = report(tmp_path, "series", {"tuned": [one, none]}, ["one", "none"])
    assert page.words.count("No finite values.") == 2


def clip_data(path):
    text = path.read_text(encoding="utf-8")
    assert EVIL not in text
    return json.loads(re.search(r'id="clip-data">(.*?)</script>', text, re.S)[1])["benchmarks"][0], Page(text)


def write_runs(root, kind):
    write_run(root / "a0", kind, experiment="one", noise=0.2)
    write_run(root / "a1", kind, experiment="one", noise=0.3, run_seed=1)
    write_run(root / "b0", kind, experiment="other", noise=0.6)
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_runs_are_compared_by_credit_with_their_other_numbers_beside(kind, tmp_path):
    root = write_runs(tmp_path / "runs", kind)
    (scored,) = compare([root], tmp_path / "page.html", clips=30, n_boot=100)
    _, page = clip_data(tmp_path / "page.html")
    means = [json.loads((root / name / "metrics.json").read_text())["subsets"] for name in ("a0", "a1")]
    for subset in ("consistent", "video_aligned", "audio_aligned"):
        own = [scores[subset] for scores in means]
        assert scored.accuracies["one"][subset].mean == pytest.approx(sum(s["accuracy"] for s in own) / 2)
        for number in SCORINGS[kind].own_numbers():
            assert number.text(sum(s[number.key] for s in own) / 2) in page.words
    assert "Other numbers" in page.words and NO_SUCH_CONTROL.sentence in page.words
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))


def test_single_labels_have_no_table_of_other_numbers(tmp_path):
    write_runs(tmp_path / "runs", "label")
    compare([tmp_path / "runs"], tmp_path / "page.html", clips=0, n_boot=50)
    assert "Other numbers" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_clips_of_a_comparison(tmp_path):
    for kind in KINDS:
        root = write_runs(tmp_path / kind, kind)
        compare([root], tmp_path / f"{kind}.html", clips=90, n_boot=50)
        benchmark, _ = clip_data(tmp_path / f"{kind}.html")
        rows = {row.id: row for row in rows_of(kind, noise=0.2)}
        for clip in benchmark["clips"]:
            row, answer = rows[clip["id"]], clip["answers"][0]
            if kind == "labels":
                assert [EMOTIONS[i] for i in clip["truth"]] == row.labels
                found = answer["said"][0]
                assert (None if found is None else [EMOTIONS[i] for i in found]) == row.predicted_labels
                assert ("overlap" in answer) and answer["overlap"] <= 1
            elif kind == "score":
                assert clip["score"] == pytest.approx(row.score, abs=1e-3) and len(answer["scores"]) == 2
                assert (answer["scores"][0] is None) == (row.predicted_score is None)
            else:
                assert clip["steps"] == len(row.series) == len(clip["series"])
                assert [[v is None for v in step] for step in clip["series"]] == [
                    [v is None for v in step] for step in row.series
                ]
                assert ("series" in answer) == (row.predicted_series is not None)


def test_long_series_are_thinned_in_the_page(tmp_path):
    root = tmp_path / "runs"
    write_run(root / "a", "series", experiment="one")
    long = [
        replace(row, series=[(i / 1000, None) for i in range(1000)], predicted_series=[(0.0, 0.0)] * 1000)
        for row in rows_of("series")[1:3]
    ]
    write_predictions(long, LISTS["series"], root / "a" / "predictions.parquet")
    compare([root], tmp_path / "page.html", clips=2, n_boot=50)
    clip = clip_data(tmp_path / "page.html")[0]["clips"][0]
    values = [step[0] for step in clip["series"]]
    assert clip["steps"] == 1000 and len(values) == MOST_STEPS and values == sorted(values)
    assert (values[0], values[-1]) == (0.0, 0.999)


@pytest.mark.parametrize(("first", "second"), [("score", "series"), ("label", "labels")])
def test_a_comparison_of_several_kinds_is_refused(first, second, tmp_path):
    write_run(tmp_path / "a", first)
    write_run(tmp_path / "b", second, experiment="other")
    what = [SCORINGS[kind].what for kind in (second, first)]
    for use in (lambda: compare([tmp_path], tmp_path / "page.html"), lambda: collect([tmp_path])):
        with pytest.raises(ValueError, match=f"b predicts {what[0]}, other runs on made up predict {what[1]}"):
            use()


def test_other_truths_are_refused(tmp_path):
    write_run(tmp_path / "a", "score")
    write_run(tmp_path / "b", "score", experiment="other", seed=1)
    with pytest.raises(ValueError, match="covers other clips"):
        collect([tmp_path])


@pytest.mark.parametrize("kind", KINDS)
def test_the_aggregate_table_has_the_leading_numbers(kind, tmp_path):
    root = write_runs(tmp_path, kind)
    benchmark = collect([root])
    header, one, _ = table(benchmark, n_boot=50)
    lead = SCORINGS[kind].headline()
    means = [json.loads((root / name / "metrics.json").read_text())["subsets"] for name in ("a0", "a1")]
    for number in lead:
        cell = one[header.index(f"video aligned {number.heading}")]
        assert cell == number.text(sum(own["video_aligned"][number.key] for own in means) / 2)
    assert len(header) == len(one) == 2 + 5 + 3 * len(lead)
    assert len(differences(benchmark, [("one", "other")], n_boot=50)) == 2
    assert confidences(benchmark.systems["one"]) == ([], [])


def test_a_number_that_a_run_does_not_define_is_a_dash(tmp_path):
    write_run(tmp_path / "a", "score")
    path = tmp_path / "a" / "metrics.json"
    content = json.loads(path.read_text())
    content["subsets"]["consistent"]["pearson"] = None
    path.write_text(json.dumps(content))
    header, row = table(collect([tmp_path]), n_boot=50)
    assert row[header.index("consistent Pearson r")] == "–" and row[header.index("consistent MAE")] != "–"


@pytest.mark.parametrize("kind", [*KINDS, "label"])
def test_tables_on_the_terminal(kind):
    systems = two(kind)
    before, after = (summary_of(rows, kind) for rows in systems.values())
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(single_table(after))
    console.print(comparison_table(before, after, *systems.values(), n_boot=50))
    shown = console.export_text()
    for number in SCORINGS[kind].brief():
        assert number.heading in shown and number.text(after["subsets"]["consistent"][number.key]) in shown


@pytest.mark.parametrize("kind", [*KINDS, "label"])
def test_wandb_gets_the_numbers_and_confusions_where_there_are_any(kind):
    rows = rows_of(kind)
    summaries = {"tuned": summary_of(rows, kind)}
    sent = dict(scores(summaries))
    for number in SCORINGS[kind].numbers:
        key = f"test/tuned/consistent/{number.key}"
        assert sent[key] == summaries["tuned"]["subsets"]["consistent"][number.key]
    shown = subset_table(summaries)
    assert {number.key for number in SCORINGS[kind].numbers} <= set(shown.columns) and len(shown.data) == 3
    charts = dict(confusion_matrices({"tuned": rows}, LISTS[kind]))
    assert len(charts) == (0 if kind == "labels" else 3)
