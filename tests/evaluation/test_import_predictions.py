"""Predictions of others become a run directory that reports and tables take like our own."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mosear.data.clip import Clip
from mosear.data.manifest import write_manifest
from mosear.evaluation import metrics
from mosear.evaluation.aggregate import collect, differences, table
from mosear.evaluation.import_predictions import MODEL, main
from mosear.evaluation.predictions import PredictionRow, read_predictions, write_predictions
from mosear.evaluation.summary import summarise, write_metrics

ROOT = Path(__file__).parents[2]
LABELS = ("angry", "happy", "sad")
SUBSETS = ("consistent", "video_aligned", "audio_aligned")


@pytest.fixture
def clips() -> list[Clip]:
    rng = random.Random(0)
    return [
        Clip(id=f"{n:04d}", video=f"{n:04d}.mp4", audio="video", label=rng.choice(LABELS), subset=SUBSETS[n % 3])
        for n in range(30)
    ]


@pytest.fixture
def manifest(clips, tmp_path) -> Path:
    return write_manifest(clips, tmp_path / "test.jsonl")


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(file: Path, manifest: Path, *more: str) -> tuple[dict, list[PredictionRow]]:
    out = file.parent / f"run-{file.stem}"
    main([str(file), "--manifest", str(manifest), "--labels", ",".join(LABELS), "--out", str(out), *more])
    rows, labels = read_predictions(out / "predictions.parquet")
    assert tuple(labels) == LABELS and "accuracy" in (out / "report.html").read_text()
    return json.loads((out / "metrics.json").read_text()), rows


def guesses(clips) -> dict[str, str]:
    rng = random.Random(1)
    return {clip.id: rng.choice((clip.label, *LABELS)) for clip in clips}


def test_labels_from_csv_and_jsonl_score_as_the_pure_functions_say(clips, manifest, tmp_path, capsys):
    said = guesses(clips)
    rows = [{"id": key, "prediction": value} for key, value in reversed(said.items())]
    by_csv, csv_rows = run(
        write_csv(tmp_path / "a.csv", rows), manifest, "--metrics", "uar,camer", "--system", "theirs"
    )
    by_json, json_rows = run(
        write_jsonl(tmp_path / "b.jsonl", rows), manifest, "--metrics", "uar,camer", "--system", "theirs"
    )
    assert csv_rows == json_rows and [row.id for row in csv_rows] == [clip.id for clip in clips]
    assert {key: value for key, value in by_csv.items() if key != "import"} == {
        key: value for key, value in by_json.items() if key != "import"
    }
    accuracies = {}
    for subset in SUBSETS:
        own = [clip for clip in clips if clip.subset == subset]
        truth, found = [clip.label for clip in own], [said[clip.id] for clip in own]
        accuracies[subset] = metrics.accuracy(truth, found, LABELS)
        assert by_csv["subsets"][subset]["accuracy"] == accuracies[subset]
        assert by_csv["benchmark_metrics"]["uar"][subset]["uar"] == metrics.uar(truth, found, LABELS)
    assert by_csv["benchmark_metrics"]["camer"]["summary"] == metrics.camer_summary(accuracies)
    assert by_csv["import"]["matched"] == 30 and by_csv["import"]["missing"] == by_csv["import"]["unmatched"] == 0
    printed = capsys.readouterr().out
    assert "30 clips matched." in printed and "conflict mean" in printed and "camer" in printed


def test_missing_clips_are_wrong_and_strange_ids_are_named(clips, manifest, tmp_path, capsys):
    rows = [{"id": clip.id, "prediction": clip.label} for clip in clips[3:]] + [{"id": "zzz", "prediction": "sad"}]
    found, read = run(write_csv(tmp_path / "a.csv", rows), manifest)
    assert found["import"]["missing_ids"] == ["0000", "0001", "0002"] and found["import"]["missing"] == 3
    assert found["import"]["unmatched_ids"] == ["zzz"] and found["import"]["matched"] == 27
    for subset in SUBSETS:
        assert found["subsets"][subset]["accuracy"] == 0.9 and found["subsets"][subset]["unparsed"] == 1
    assert [row.unparsed_reason for row in read[:4]] == ["no prediction in the file"] * 3 + [None]
    printed = capsys.readouterr().out
    assert "3 clips have no prediction and count as wrong: 0000, 0001, 0002" in printed
    assert "1 ids are unknown: zzz" in printed


def test_texts_are_parsed_by_the_format(clips, manifest, tmp_path):
    texts = {
        "0000": '{"final_label": "Furious"}',
        "0001": '{"final_label": "sad."}',
        "0002": "I think: happy",
        "0003": "",
    }
    rows = [{"file": key, "output": value} for key, value in texts.items()]
    columns = ("--id-column", "file", "--prediction-column", "output")
    _, read = run(
        write_jsonl(tmp_path / "a.jsonl", rows),
        manifest,
        *columns,
        *("--answer-format", "strict_json", "--synonyms", "furious=angry"),
    )
    assert [row.prediction for row in read[:4]] == ["angry", None, None, None]
    assert [row.unparsed_reason for row in read[:4]] == [None, "no label", "invalid JSON", "empty"]
    assert [row.answer_text for row in read[:4]] == list(texts.values())


def test_probabilities_give_the_label_and_the_expected_level(tmp_path):
    labels = ("negative", "neutral", "positive")
    scores = {"a": 1.0, "b": -2.0, "c": 0.5}
    clips = [Clip(id=key, text="x", label="positive" if y > 0 else "negative", score=y) for key, y in scores.items()]
    manifest = write_manifest(clips, tmp_path / "m.parquet")
    shares = {"a": (0.1, 0.2, 0.7), "b": (0.5, 0.1, 0.4), "c": (0.25, 0.5, 0.25)}
    columns = [f"p_{label}" for label in labels]
    rows = [{"id": key, **dict(zip(columns, own, strict=True))} for key, own in shares.items()]
    options = ["--labels", ",".join(labels), "--metrics", "mosi", "--levels", "negative=-3,neutral=0,positive=3"]
    for name, changed in (("alone", {}), ("beside", {"prediction": ""})):
        given = [
            row | ({"prediction": "positive" if row["id"] == "a" else "negative"} if changed else {}) for row in rows
        ]
        out = tmp_path / name
        main(
            [str(write_csv(tmp_path / f"{name}.csv", given)), "--manifest", str(manifest), "--out", str(out), *options]
        )
        read, _ = read_predictions(out / "predictions.parquet")
        assert [row.distribution for row in read] == [pytest.approx(own) for own in shares.values()]
        assert [row.prediction for row in read][:2] == ["positive", "negative"]
        assert read[2].prediction == ("negative" if changed else "neutral")
        found = json.loads((out / "metrics.json").read_text())["benchmark_metrics"]["mosi"]["overall"]
        expected = metrics.mosi_scores(list(scores.values()), [1.8, -0.3, 0.0])
        assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_tables_take_imported_runs_beside_our_own(clips, manifest, tmp_path):
    said = guesses(clips)
    file = write_csv(tmp_path / "a.csv", [{"id": key, "prediction": value} for key, value in said.items()])
    run(file, manifest, "--system", "theirs", "--backbone", "tiny-omni")
    own = tmp_path / "own"
    own.mkdir()
    rows = [
        PredictionRow(id=c.id, subset=c.subset, label=c.label, prediction=c.label, benchmark="test", model="tuned")
        for c in clips
    ]
    summary = summarise(rows, LABELS, benchmark="test", steering="none", seed=0, n_boot=50)
    write_metrics({**summary, "run": {"experiment": "ours", "backbone": "tiny-omni"}}, own / "metrics.json")
    write_predictions(rows, LABELS, own / "predictions.parquet")
    benchmark = collect([own, tmp_path / "run-a"])
    assert list(benchmark.systems) == ["ours", "theirs"] and len(table(benchmark, n_boot=50)) == 3
    wrong = sum(said[clip.id] != clip.label for clip in clips if clip.subset == "consistent") / 10
    (cell,) = (row[1] for row in differences(benchmark, [("ours", "theirs")], n_boot=50)[1:])
    assert cell.startswith(f"{100 * wrong:+.1f} ")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "0000", "prediction": "sad"}, {"id": "0000", "prediction": "sad"}], "repeats the id '0000'"),
        ([{"name": "0000", "prediction": "sad"}], "has no 'id'; its columns are name, prediction (see --id-column)"),
        ([{"id": "0000", "answer": "sad"}], "has neither 'prediction' nor probabilities; its columns are id, answer"),
        ([{"id": "x", "prediction": "sad"}], "the file has 'x', ..., the manifest '0000'"),
        ([{"id": "0000", "prediction": 3}], "prediction is 3, not text"),
        (
            [{"id": "0000", "probabilities": {"sad": 1.0}}],
            "must be given for exactly angry, happy, sad; they are for sad",
        ),
        ([{"id": "0000", "probabilities": {"angry": 0.5, "happy": 0.5, "sad": 0.5}}], "add up to 1"),
        ([{"id": "0000", "probabilities": {"angry": 1.5, "happy": -0.5, "sad": 0}}], "0 or more"),
        ([{"id": "0000", "probabilities": {"angry": "much", "happy": 0.5, "sad": 0}}], "are no probabilities"),
        ([], "has no predictions"),
    ],
)
def test_mistakes_in_the_file_are_named(rows, message, manifest, tmp_path):
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(write_jsonl(tmp_path / "a.jsonl", rows), manifest)
    assert not (tmp_path / "run-a").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,prediction\n0000,sad,very\n", "line 2 has more or fewer cells"),
        ("a.csv", "id,prediction\n0000\n", "line 2 has more or fewer cells"),
        ("a.csv", "id,p_angry\n0000,1.0\n", "must be given for exactly angry, happy, sad; they are for angry"),
        ("a.jsonl", "{\n", "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("a.txt", "", "a .csv or .jsonl file"),
    ],
)
def test_files_that_are_no_tables_are_named(name, text, message, manifest, tmp_path):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(file, manifest)


def test_a_finished_run_is_not_overwritten(clips, manifest, tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"id": "0000", "prediction": "sad"}])
    run(file, manifest)
    with pytest.raises(SystemExit, match="already holds predictions"):
        run(file, manifest)


def test_unknown_metrics_and_labels_are_named(clips, manifest, tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"id": "0000", "prediction": "sad"}])
    with pytest.raises(SystemExit, match="unknown benchmark metrics uab; there are accuracy"):
        run(file, manifest, "--metrics", "uab")
    with pytest.raises(SystemExit, match="extend the list or fix the manifest"):
        main([str(file), "--manifest", str(manifest), "--labels", "sad,happy", "--out", str(tmp_path / "r")])
    unlabelled = write_manifest([Clip(id="0000", text="x")], tmp_path / "u.jsonl")
    with pytest.raises(SystemExit, match="clip '0000' of the manifest has no label"):
        run(file, unlabelled)


def test_only_the_asked_split_is_scored(clips, tmp_path):
    more = [*clips, Clip(id="train0", text="x", label="sad", split="train")]
    file = write_jsonl(tmp_path / "a.jsonl", [{"id": clip.id, "prediction": clip.label} for clip in more])
    found, read = run(file, write_manifest(more, tmp_path / "m.jsonl"), "--split", "test")
    assert len(read) == 30 and found["import"]["unmatched_ids"] == ["train0"]
    assert {row.model for row in read} == {MODEL} == {found["model"]}


def test_the_command_needs_no_torch():
    code = (
        "import sys; from mosear.evaluation.import_predictions import parse_arguments as p;"
        "o = p(['f.csv', '--manifest', 'a/m.parquet', '--labels', 'x, y', '--out', 'o', '--levels', 'x=1,y=-1']);"
        "print(o.labels, o.levels, o.name, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['x', 'y'] {'x': 1.0, 'y': -1.0} m False"


def import_sets(tmp_path, rows, kind, *more, clips=None):
    """``metrics.json`` and rows of an import of label sets."""
    truths = [("angry",), ("happy", "sad"), (), ("sad",), ("angry", "sad")]
    known = [Clip(id=f"c{i}", text="x", labels=labels) for i, labels in enumerate(truths)]
    manifest = write_manifest(clips or known, tmp_path / "manifest.jsonl")
    file = {"csv": write_csv, "jsonl": write_jsonl}[kind](tmp_path / f"sets-{kind}.{kind}", rows)
    return run(file, manifest, "--task", "labels", "--metrics", "multilabel", *more)


SETS = (["angry"], ["sad"], [], None, ["happy", "sad"])


def test_sets_from_csv_and_jsonl(tmp_path, capsys):
    by_json, rows = import_sets(tmp_path, [{"id": f"c{i}", "labels": own} for i, own in enumerate(SETS)], "jsonl")
    cells = ["angry", '["Sad"]', "", "joy|sad", " sad | HAPPY "]
    by_csv, csv_rows = import_sets(tmp_path, [{"id": f"c{i}", "labels": own} for i, own in enumerate(cells)], "csv")
    assert [row.predicted_labels for row in rows] == list(SETS) == [row.predicted_labels for row in csv_rows]
    assert [row.unparsed_reason for row in rows] == [None, None, None, "empty", None]
    assert csv_rows[3].unparsed_reason.startswith("'joy': ") and csv_rows[2].prediction == "none"
    assert [row.credit for row in rows] == pytest.approx([1, 1 / 2, 0, 0, 1 / 3])
    assert by_json["subsets"] == by_csv["subsets"] and by_json["kind"] == "labels"
    scores = by_json["subsets"]["all"]
    assert scores["accuracy"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 5) and scores["exact"] == 2 / 5
    assert by_json["benchmark_metrics"]["multilabel"]["overall"]["jaccard"] == scores["accuracy"]
    assert f"exactly right {100 * scores['exact']:.1f} %, micro F1" in capsys.readouterr().out


def test_sets_from_probabilities_each_by_itself(tmp_path):
    shares = [{"angry": 0.9, "happy": 0.8, "sad": 0.1}] * 5
    rows = [{"id": f"c{i}", "probabilities": own} for i, own in enumerate(shares)]
    _, found = import_sets(tmp_path, rows, "jsonl", "--threshold", "0.85")
    assert {tuple(row.predicted_labels) for row in found} == {("angry",)}
    assert found[0].distribution == [0.9, 0.8, 0.1]
    shutil.rmtree(tmp_path / "run-sets-jsonl")
    with pytest.raises(SystemExit, match="each must be between 0 and 1"):
        import_sets(tmp_path, [{"id": "c0", "probabilities": {"angry": 1.2, "happy": 0, "sad": 0}}], "jsonl")


@pytest.mark.parametrize(
    ("clips", "rows", "message"),
    [
        ([Clip(id="c0", text="x", label="sad")], [{"id": "c0", "labels": []}], "no clip of the manifest has a set"),
        ([Clip(id="c0", text="x", labels=("joy",))], [{"id": "c0", "labels": []}], "has the labels joy too"),
        (None, [{"id": "c0", "labels": 3}], "labels is 3, not text or a list of texts"),
        (None, [{"id": "c0", "prediction": "sad"}], "has neither 'labels' nor probabilities"),
    ],
)
def test_sets_that_cannot_be_read(clips, rows, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        import_sets(tmp_path, rows, "jsonl", clips=clips)
    assert not (tmp_path / "run-sets-jsonl").exists()


def import_scores(tmp_path, rows, *more, score=0.8):
    clips = [Clip(id=f"c{i}", text="x", score=None if score is None else score - i) for i in range(3)]
    manifest = write_manifest(clips, tmp_path / "manifest.jsonl")
    return run(write_csv(tmp_path / "scores.csv", rows), manifest, "--task", "score", *more)


LEVELS = ("--levels", "angry=-1,happy=1,sad=0")


def test_scores_have_the_class_of_the_nearest_level(tmp_path):
    rows = [{"id": "c0", "score": "0.6"}, {"id": "c1", "score": "-0.7"}, {"id": "c2", "score": "much"}]
    result, found = import_scores(tmp_path, rows, *LEVELS, "--metrics", "sims")
    assert [row.label for row in found] == ["happy", "sad", "angry"]
    assert [row.prediction for row in found] == ["happy", "angry", None]
    assert found[2].unparsed_reason == "not a number: 'much'"
    scores = result["subsets"]["all"]
    assert scores["mae"] == pytest.approx((0.2 + 0.5) / 2) and scores["accuracy"] == pytest.approx(1 / 3)
    assert result["benchmark_metrics"]["sims"]["overall"]["unparsed"] == 1


@pytest.mark.parametrize(("cell", "reason"), [("nan", "not a finite number: nan"), ("-inf", "-inf"), ("", "empty")])
def test_what_is_no_score_is_no_answer(cell, reason, tmp_path):
    rows = [{"id": f"c{i}", "score": cell} for i in range(3)]
    result, found = import_scores(tmp_path, rows, *LEVELS)
    assert all(row.predicted_score is None and reason in row.unparsed_reason for row in found)
    assert result["subsets"]["all"]["mae"] is result["subsets"]["all"]["ccc"] is None


def test_scores_need_levels_and_true_scores(tmp_path):
    with pytest.raises(SystemExit, match=r"--task score needs the score of every label.*names none of angry, happy"):
        import_scores(tmp_path, [{"id": "c0", "score": "0"}])
    with pytest.raises(SystemExit, match="'c0' of the manifest has no score"):
        import_scores(tmp_path, [{"id": "c0", "score": "0"}], *LEVELS, score=None)
