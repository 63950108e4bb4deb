"""``benchmark=NAME``: benchmarks compose, agree with their importers, are checked before weights load, and run."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from mosear.config.benchmark_rules import benchmark_clips_fit, metrics_are_known
from mosear.config.rules import EVAL_KEYS, EVAL_RULES, SUPPLIED, TRAIN_KEYS, TRAIN_RULES
from mosear.config.validation import ConfigError, validate
from mosear.data import prepare
from mosear.data.clip import Clip
from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.sources import NAMES, ca_mer, source
from mosear.evaluation import metrics
from mosear.evaluation.aggregate import collect
from mosear.evaluation.benchmark_metrics import METRICS, Answers, benchmark_scores
from mosear.evaluation.benchmark_metrics.conflict import CAMER_PARTS
from mosear.evaluation.import_predictions import main as import_predictions
from mosear.evaluation.predictions import joined, read_predictions
from mosear.fusion.tasks.label import LabelTask
from mosear.problems import Problem
from tests.helpers import processes, source_trees

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PUBLISHED = sorted(
    path.stem
    for path in (CONF / "benchmark").glob("*.yaml")
    if not re.match("base|manifest|synthetic|features", path.stem)
)
VALENCE = "benchmark.levels={neutral: 0, angry: -2, happy: 3, sad: -2, worried: -1, surprise: 0}"


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=["run_dir=/tmp/run", *overrides])


def check(name: str, *overrides: str) -> DictConfig:
    keys, rules = (TRAIN_KEYS, TRAIN_RULES) if name == "train" else (EVAL_KEYS, EVAL_RULES)
    cfg = composed(name, *overrides)
    validate(cfg, rules=rules, allowed_keys=keys, supplied=SUPPLIED)
    return cfg


def written(directory: Path, cfg: DictConfig, **changes) -> str:
    """A manifest of texts with all that a benchmark asks for, or with changes to that."""
    labels = list(cfg.data.prompt.labels)
    clips = [
        Clip(**({"id": f"c{n}", "text": "x", "label": label, "score": 0.5, "subset": CAMER_PARTS[n % 3]} | changes))
        for n, label in enumerate([*labels, *labels])
    ]
    return str(write_manifest(clips, directory / "m.jsonl"))


@pytest.mark.parametrize("stem", PUBLISHED)
def test_a_benchmark_composes_and_validates(stem, tmp_path):
    cfg = composed("eval", f"benchmark={stem}")
    manifest = written(tmp_path, cfg)
    options = [f"benchmark={stem}", f"benchmark.manifest={manifest}"]
    check("eval", *options)
    assert (cfg.data.train, cfg.data.val, cfg.data.prepare, cfg.benchmark.split) == (None, None, None, "test")
    assert cfg.data.prompt.list_labels and cfg.answering.method == "score" and cfg.benchmark.metrics
    # The same test set after training: what is trained on is the user's choice.
    trained = check("train", *options, "data=manifest", f"data.train={manifest}", f"data.val={manifest}")
    assert trained.data.test == manifest
    assert list(trained.data.prompt.labels) == list(cfg.data.prompt.labels)


@pytest.mark.parametrize("stem", PUBLISHED)
def test_a_benchmark_agrees_with_its_importer(stem):
    cfg = composed("eval", f"benchmark={stem}")
    assert cfg.benchmark.name in NAMES
    importer = source(cfg.benchmark.name)
    assert sorted(cfg.data.prompt.labels) == sorted(importer.labels)
    text = (CONF / "benchmark" / f"{stem}.yaml").read_text()
    (command,) = re.findall(r"^# Manifest: python -m mosear prepare (.*)$", text, re.M)
    made = prepare.parse_arguments(shlex.split(command))
    assert made.name == cfg.benchmark.name and made.split is None
    assert str(made.out).replace("{split}", "test") == cfg.benchmark.manifest
    assert f"benchmark={stem}" in text.splitlines()[1]
    assert ("UNVERIFIED" in text) == (not importer.verified)
    if cfg.benchmark.levels:  # the middle of what each label covers, as the importer's thresholds cut the scale
        edge = 0.1 if importer.scores[1] == 1 else 0.0
        middle = (edge + importer.scores[1]) / 2
        assert dict(cfg.benchmark.levels) == {"negative": -middle, "neutral": 0.0, "positive": middle}


def test_the_documentation_lists_every_benchmark_with_its_metrics():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    table = text[text.index("| `benchmark=` |") : text.index("All score the labels")]
    listed = {}
    for line in table.splitlines()[2:]:
        cells = [re.findall(r"`(\w+)`", cell) for cell in line.split("|")]
        listed |= dict.fromkeys(cells[1], cells[-2]) if len(cells) > 2 else {}
    found = {stem: list(composed("eval", f"benchmark={stem}").benchmark.metrics) for stem in PUBLISHED}
    assert listed == found


def test_ca_mer_s_vocabulary_is_the_published_one():
    cfg = composed("eval", "benchmark=ca_mer")
    assert tuple(cfg.data.prompt.labels) == ca_mer.LABELS and dict(cfg.data.prompt.synonyms) == ca_mer.SYNONYMS


@pytest.mark.parametrize(
    ("stem", "changes", "overrides", "expected"),
    [
        ("meld", {}, ["benchmark.metrics=[uab]"], "no such metric"),
        ("meld", {}, ["benchmark.metrics=[uab]"], f"There are {', '.join(METRICS)}."),
        ("meld", {}, ["benchmark.metrics=uar"], "Write 'benchmark.metrics=[uar]'"),
        ("meld", {}, ["benchmark.metrics=[mosi]"], "mosi: levels must give a score to exactly the labels neutral"),
        ("mer2023", {"score": None}, ["benchmark.metrics=[emomm]", VALENCE], "emomm: clip 'c0' has no score"),
        ("mosi", {"score": None}, [], "mosi: clip 'c0' has no score (manifest column score)"),
        ("emomm", {"score": 2.0}, [], "must lie on the scale [-1, 1], got 2.0"),
        ("ca_mer", {}, ["benchmark.metrics=[camer_set]"], "Evaluate with answering.method=generate"),
        (
            "ca_mer",
            {},
            ["benchmark.metrics=[camer_set]", "answering.method=generate"],
            "clip 'c0' has no words to find",
        ),
        (
            "ca_mer",
            {"subset": "consistent"},
            [],
            "needs the subsets video_aligned, audio_aligned; there are consistent",
        ),
        ("meld", {"subset": "overall"}, [], "a subset is called 'overall'"),
        ("meld", {"split": "val"}, [], "lists 14 val clips beside those of the test split"),
        ("meld", {"label": "boredom"}, [], "the clips have the labels boredom too"),
        ("meld", {"label": None}, [], "the clips have the labels (none) too"),
        ("meld", {"video": "v.mp4"}, ["data.root=/no/such"], "such as /no/such/v.mp4"),
        ("meld", {}, ["+experiment=lora"], "would render the synthetic corpus, which benchmark=meld does not read"),
        (
            "meld",
            {},
            ["data=synthetic", "benchmark.manifest=/no/such.parquet"],
            "Make it with python -m mosear prepare",
        ),
        ("meld", {}, ["benchmark.manifest=/no/such.parquet"], "(of a benchmark: see python -m mosear prepare)"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_loads(stem, changes, overrides, expected, tmp_path):
    manifest = written(tmp_path, composed("eval", f"benchmark={stem}"), **changes)
    with pytest.raises(ConfigError, match=re.escape(expected)):
        check("eval", f"benchmark={stem}", f"benchmark.manifest={manifest}", *overrides)


class SetTask(LabelTask):
    """Sets of labels, as far as the rules of a config ask."""

    name = "labels"

    def problem(self, clip: Clip) -> str | None:
        outside = sorted(set(clip.labels) - set(self.labels))
        return f"labels {', '.join(outside)} are not in the list" if outside else None

    def truth(self, clip: Clip) -> dict[str, Any]:
        return {"labels": clip.labels, "label": joined(clip.labels, self.labels)}


class ScoreTask(LabelTask):
    """Scores, as far as the rules of a config ask."""

    name = "score"

    def truth(self, clip: Clip) -> dict[str, Any]:
        return {"score": clip.score, "label": clip.label}


def of_task(task: type, manifest: Path, metric: str) -> list[Problem]:
    cfg = composed("eval", "benchmark=mosei", f"benchmark.manifest={manifest}", f"benchmark.metrics=[{metric}]")
    with open_dict(cfg):
        cfg.benchmark.levels, cfg.task = None, {"_target_": f"{__name__}.{task.__name__}"}
    return [*metrics_are_known(cfg), *benchmark_clips_fit(cfg)]


def test_manifests_of_label_sets_are_for_the_task_of_label_sets(tmp_path):
    labels = list(composed("eval", "benchmark=mosei").data.prompt.labels)
    clips = [Clip(id=f"c{i}", text="x", labels=tuple(labels[:i])) for i in range(3)]
    manifest = write_manifest(clips, tmp_path / "sets.jsonl")
    assert of_task(SetTask, manifest, "multilabel") == []
    unfit = of_task(SetTask, manifest, "mosi")[0]
    assert "these are of the kind labels" in unfit.message and unfit.remedy.startswith("Choose among multilabel,")
    (single,) = of_task(LabelTask, manifest, "accuracy")
    assert "task=label cannot test 3 of 3 clips, such as 'c0'" in single.message
    odd = write_manifest([*clips, Clip(id="odd", text="x", labels=("joy",))], tmp_path / "odd.jsonl")
    (problem,) = of_task(SetTask, odd, "multilabel")
    assert "cannot test 1 of 4 clips, such as 'odd': labels joy" in problem.message


def test_predicted_scores_need_no_levels(tmp_path):
    labels = list(composed("eval", "benchmark=mosei").data.prompt.labels)
    clips = [Clip(id=label, text="x", label=label, score=0.5) for label in labels]
    manifest = write_manifest(clips, tmp_path / "m.jsonl")
    assert of_task(ScoreTask, manifest, "mosi") == []
    (problem,) = of_task(LabelTask, manifest, "mosi")
    assert problem.key == "benchmark.levels"


def test_a_manifest_that_is_none_is_one_problem_of_the_config(tmp_path):
    (tmp_path / "m.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="Correct the manifest") as error:
        check("eval", "benchmark=meld", f"benchmark.manifest={tmp_path / 'm.jsonl'}")
    assert "line 1: missing columns id" in str(error.value) and len(error.value.problems) == 1


def test_an_experiment_s_adapter_is_tested_on_a_benchmark_with_data_test(tmp_path):
    manifest = written(tmp_path, composed("eval", "benchmark=meld"))
    options = [f"benchmark.manifest={manifest}", "data=test", "trainer=cpu"]
    cfg = check("eval", "+experiment=mosear_7b", "benchmark=meld", *options)
    assert cfg.data.prepare is None and cfg.adapter.gate_norm
    valence = ["benchmark.metrics=[weighted_f1,mer2023]", VALENCE]
    manifest = written(tmp_path, composed("eval", "benchmark=mer2023"))
    check("eval", "benchmark=mer2023", f"benchmark.manifest={manifest}", *valence)


def test_training_needs_training_clips(tmp_path):
    manifest = written(tmp_path, composed("eval", "benchmark=meld"))
    with pytest.raises(ConfigError, match="there are no clips to train on"):
        check("train", "benchmark=meld", f"benchmark.manifest={manifest}")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> tuple[Path, Path]:
    """A small CREMA-D tree, prepared and evaluated as the config's header says: data directory and run directory."""
    data, run_dir = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run") / "a"
    root = source_trees.crema_d(data / "CREMA-D")
    out = data / "crema-d-conflict.parquet"
    prepare.main(["crema-d-conflict", "--root", str(root), "--out", str(out)])
    overrides = [
        *("benchmark=crema_d_conflict", f"data_dir={data}", f"data.root={root}", f"hydra.run.dir={run_dir}"),
        *("data.num_workers=0", "callbacks.progress=null", "answering.readings=false"),
    ]
    done = processes.run(["eval.py", *overrides], env={**processes.inherited(), "COLUMNS": "160"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "benchmark metrics" in done.stdout and "majority_accuracy" in done.stdout
    return data, run_dir


def test_a_run_has_the_benchmark_s_metrics(evaluated):
    data, run_dir = evaluated
    cfg = composed("eval", "benchmark=crema_d_conflict")
    found = json.loads((run_dir / "metrics.json").read_text())
    rows, labels = read_predictions(run_dir / "predictions.parquet")
    assert {row.subset for row in rows} >= set(CAMER_PARTS) and not any(row.unparsed_reason for row in rows)
    clips = {clip.id: clip for clip in load_manifest(data / "crema-d-conflict.parquet")}
    answers = Answers(rows=rows, labels=labels, clips=clips)
    assert found["benchmark"] == "crema-d-conflict" and labels == list(cfg.data.prompt.labels)
    assert found["benchmark_metrics"] == benchmark_scores(list(cfg.benchmark.metrics), answers)
    accuracies = {name: own["accuracy"] for name, own in found["subsets"].items()}
    summary = found["benchmark_metrics"]["camer"]["summary"]
    assert summary == metrics.camer_summary(accuracies)
    assert (summary["conflict"], summary["gap"]) == (found["conflict_mean"], found["gap"])
    everything = [row.label for row in rows], [row.prediction for row in rows]
    assert found["benchmark_metrics"]["uar"]["overall"]["uar"] == metrics.uar(*everything, labels)
    assert "Benchmark metrics" in (run_dir / "report.html").read_text()


def test_the_run_s_predictions_come_back_through_the_importer(evaluated, tmp_path):
    """Written to CSV and imported, with probabilities: the same scores, and tables take both."""
    data, run_dir = evaluated
    rows, labels = read_predictions(run_dir / "predictions.parquet")
    with (tmp_path / "own.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prediction", *(f"p_{label}" for label in labels)])
        writer.writerows([row.id, row.prediction, *row.distribution] for row in rows)
    options = ["--labels", ",".join(labels), "--metrics", "uar,skew,camer", "--system", "copy"]
    manifest = ["--manifest", str(data / "crema-d-conflict.parquet"), "--out", str(tmp_path / "copy")]
    import_predictions([str(tmp_path / "own.csv"), *manifest, *options])
    own, copy = (json.loads((path / "metrics.json").read_text()) for path in (run_dir, tmp_path / "copy"))
    for key in ("benchmark", "subsets", "conflict_mean", "gap", "benchmark_metrics", "labels"):
        assert own[key] == copy[key], key
    assert list(collect([run_dir, tmp_path / "copy"]).systems) == ["zero-shot", "copy"]


def test_a_run_without_such_metrics_says_nothing_of_them():
    assert OmegaConf.to_container(composed("eval").benchmark)["metrics"] == []
    assert benchmark_scores([], Answers(rows=[], labels=[], clips={})) == {}
