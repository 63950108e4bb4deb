import dataclasses
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mosear import predict
from mosear.evaluation import metrics
from mosear.evaluation.predictions import SCHEMA, PredictionRow, read_predictions, write_predictions
from mosear.evaluation.summary import comparison_table, paired_differences, summarise, write_metrics
from mosear.inference import late_fusion
from mosear.runtime.predictor import Prediction
from mosear.runtime.results import single_table

LABELS = ["happy", "sad", "angry"]

ATTENTION = {"attention_before": [0.5, 0.1, 0.4], "attention_after": [0.3, 0.3, 0.4]}


def row(index=0, **changes):
    values = {
        "id": f"clip_{index}",
        "subset": "consistent",
        "label": "happy",
        "prediction": "happy",
        "benchmark": "synthetic",
        "model": "tuned",
    }
    return PredictionRow(**(values | changes))


def make_rows(model, accuracy, seed, *, readings=True, subsets=("consistent", "video_aligned", "audio_aligned")):
    rng = np.random.default_rng(seed)
    rows = []
    for subset in subsets:
        for i in range(60):
            label = LABELS[i % 3]
            hit = rng.random() < accuracy[subset]
            unread = rng.random() < 0.05
            p = {name: rng.dirichlet(np.ones(3)) for name in ("p_visual", "p_audio", "p_text")} if readings else {}
            rows.append(
                row(
                    id=f"{subset}_{i}",
                    subset=subset,
                    label=label,
                    prediction=None if unread else label if hit else LABELS[(i + 1) % 3],
                    unparsed_reason="no label" if unread else None,
                    model=model,
                    **({} if i % 7 == 0 else p),
                )
            )
    return rows


ACCURACY = {"consistent": 0.9, "video_aligned": 0.3, "audio_aligned": 0.8}


def summary_of(rows):
    return summarise(rows, LABELS, benchmark="synthetic", steering="none", seed=0, n_boot=300)


def test_round_trip(tmp_path):
    rows = [
        row(0, distribution=[0.5, 0.25, 0.25], p_visual=[1.0, 0.0, 0.0], text="Grüße <b>", video="a/b.mp4", seed=3),
        row(1, prediction=None, unparsed_reason="bad media: truncated file", split="val", steering="chase"),
        row(
            2,
            prediction="sad",
            answer_text="I think sad.",
            conflict=0.25,
            target="visual",
            attention_before=[0.5, 0.1, 0.4],
            attention_after=[0.3, 0.3, 0.4],
        ),
    ]
    path = tmp_path / "predictions.parquet"
    write_predictions(rows, LABELS, path)
    assert read_predictions(path) == (rows, LABELS)
    table = pq.read_table(path)
    assert table.schema.names == SCHEMA.names
    assert table.schema.field("distribution").type == pa.list_(pa.float64())
    assert table.column("correct").to_pylist() == [True, False, False]
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.parquet"]


def test_numpy_values_and_no_rows(tmp_path):
    write_predictions([row(distribution=np.array([0.5, 0.25, 0.25], dtype=np.float32))], LABELS, tmp_path / "a")
    assert read_predictions(tmp_path / "a")[0][0].distribution == [0.5, 0.25, 0.25]
    write_predictions([], LABELS, tmp_path / "b")
    assert read_predictions(tmp_path / "b") == ([], LABELS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(prediction="joy")], "'joy' must be in"),
        ([row(label="joy")], "'joy'"),
        ([row(prediction=None)], "exactly where there is no prediction"),
        ([row(unparsed_reason="why")], "exactly where there is no prediction"),
        ([row(p_audio=[1.0])], "p_audio has 1 values for 3 labels"),
        ([row(), row()], "'clip_0'"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        write_predictions(rows, LABELS, tmp_path / "predictions.parquet")
    assert not list(tmp_path.iterdir())


def test_both_models_fit_one_file(tmp_path):
    rows = [row(model="zero_shot"), row(model="tuned")]
    write_predictions(rows, LABELS, tmp_path / "p")
    assert read_predictions(tmp_path / "p")[0] == rows


def test_columns_about_steering_may_be_absent(tmp_path):
    write_predictions([row()], LABELS, tmp_path / "p")
    pq.write_table(pq.read_table(tmp_path / "p").drop_columns(["conflict", "target"]), tmp_path / "p")
    assert read_predictions(tmp_path / "p")[0] == [row()]


def test_foreign_file_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no predictions file"):
        read_predictions(tmp_path / "x.parquet")


def test_summary_is_the_metrics_per_subset():
    rows = make_rows("tuned", ACCURACY, 0)
    summary = summary_of(rows)
    accuracy = {}
    for subset, score in summary["subsets"].items():
        group = [r for r in rows if r.subset == subset]
        expected = metrics.score_subset([r.label for r in group], [r.prediction for r in group], LABELS)
        low, high = score["interval"]
        assert score == expected | {"quarantined": 0, "interval": [low, high]}
        assert low <= score["accuracy"] <= high
        accuracy[subset] = score["accuracy"]
    assert summary["conflict_mean"] == pytest.approx((accuracy["video_aligned"] + accuracy["audio_aligned"]) / 2)
    assert summary["gap"] == pytest.approx(abs(accuracy["video_aligned"] - accuracy["audio_aligned"]))
    assert summary["gap_interval"][0] < summary["gap"] < summary["gap_interval"][1]


def test_controls_are_scored_on_every_clip():
    rows = make_rows("tuned", ACCURACY, 1)
    controls = summary_of(rows)["controls"]
    for subset in ACCURACY:
        group = [r for r in rows if r.subset == subset]
        stacked = [
            np.array([[math.nan] * 3 if getattr(r, name) is None else getattr(r, name) for r in group])
            for name in ("p_visual", "p_audio", "p_text")
        ]
        truth = [LABELS.index(r.label) for r in group]
        assert controls["late_fusion"][subset] == pytest.approx(np.mean(late_fusion.late_fusion(*stacked[:2]) == truth))
        with_text = late_fusion.late_fusion_with_transcript(*stacked)
        assert controls["late_fusion_transcript"][subset] == pytest.approx(np.mean(with_text == truth))
    for control in controls.values():
        assert control["conflict_mean"] == pytest.approx((control["video_aligned"] + control["audio_aligned"]) / 2)


def test_absent_parts_are_null_or_left_out():
    summary = summary_of(make_rows("tuned", ACCURACY, 2, readings=False, subsets=("consistent", "video_aligned")))
    assert summary["conflict_mean"] is summary["gap"] is summary["gap_interval"] is None
    assert summary["controls"] == {}
    without_text = [dataclasses.replace(r, p_text=None) for r in make_rows("tuned", ACCURACY, 2)]
    assert list(summary_of(without_text)["controls"]) == ["late_fusion"]


@pytest.mark.parametrize(("rows", "message"), [([], "no predictions"), ([row(), row()], "one model at a time")])
def test_summary_errors(rows, message):
    with pytest.raises(ValueError, match=message):
        summary_of(rows)


def test_write_metrics_is_strict_json(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(summary_of(make_rows("tuned", ACCURACY, 3)) | {"odd": [math.nan, (1, math.inf)]}, path)
    loaded = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert loaded["odd"] == [None, [1, None]]
    assert {"benchmark", "steering", "seed", "subsets", "conflict_mean", "gap"} <= loaded.keys()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_metrics({"not json": object()}, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_paired_differences_do_not_depend_on_row_order():
    before = make_rows("zero_shot", ACCURACY, 4)
    after = make_rows("tuned", ACCURACY | {"video_aligned": 0.8}, 5)
    differences = paired_differences(before, after, n_boot=300)
    assert list(differences) == [*ACCURACY, "conflict_mean", "gap"]
    assert paired_differences(before, after[::-1], n_boot=300) == differences
    expected = summary_of(after)["conflict_mean"] - summary_of(before)["conflict_mean"]
    assert differences["conflict_mean"].mean == pytest.approx(expected)
    assert differences["video_aligned"].low > 0
    with pytest.raises(ValueError, match="same clips on both sides"):
        paired_differences(before, after[1:])


def test_comparison_table_shows_every_subset_and_escapes_markup():
    before = [dataclasses.replace(r, subset="[red]odd") for r in make_rows("zero_shot", ACCURACY, 6)[:60]]
    after = [dataclasses.replace(r, subset="[red]odd") for r in make_rows("tuned", ACCURACY, 7)[:60]]
    before += make_rows("zero_shot", ACCURACY, 6)[60:]
    after += make_rows("tuned", ACCURACY, 7)[60:]
    console = Console(width=120, record=True, quiet=True)
    table = comparison_table(summary_of(before), summary_of(after), before, after, n_boot=300)
    console.quiet = False
    with console.capture() as capture:
        console.print(table)
    text = capture.get()
    for word in ("[red]odd", "video aligned", "audio aligned", "conflict mean", "gap", "zero-shot", "tuned"):
        assert word in text
    assert f"{100 * summary_of(after)['conflict_mean']:.1f}" in text


def test_quarantined_clips_are_counted_apart_from_unparsed_answers():
    reasons = [None, "no label", "bad media: truncated", "bad media: too_long", "scores are not finite"]
    rows = [row(i, prediction=None if why else "happy", unparsed_reason=why) for i, why in enumerate(reasons)]
    scores = summary_of(rows)["subsets"]["consistent"]
    assert (scores["n"], scores["unparsed"], scores["quarantined"]) == (5, 2, 2)
    assert scores["accuracy"] == 0.2, "all of them count as wrong"


def test_brackets_in_names_are_no_markup():
    name, labels = "a[/bold]b", [*LABELS, "[/red]"]
    rows = [row(i, subset=name, label="[/red]", prediction="[/red]", benchmark=name) for i in range(3)]
    found = summarise(rows, labels, benchmark=name, steering="none", seed=0, n_boot=50)
    console = Console(width=200, record=True)
    console.print(single_table(found))
    console.print(comparison_table(found, found, rows, rows, n_boot=50))
    prediction = Prediction("[/red]", {"[/red]": 1.0, "sad": 0.0}, {}, None, 0.1)
    console.print(predict._table(prediction))
    console.print(predict._lines([("c[/bold].mp4", prediction)] * 2))
    shown = console.export_text()
    assert shown.count("a[/bold]b") >= 4 and "[/red]" in shown and "c[/bold].mp4" in shown
