"""One W&B run per job, read back from what an offline run wrote."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from mosear.data.synthetic.corpus import ensure_corpus
from mosear.evaluation.predictions import read_predictions
from mosear.loggers.build import closing_runs
from mosear.loggers.wandb_logger import RUN_ID_FILE, RunDirectoryWandbLogger, run_id
from mosear.loggers.wandb_results import scores
from mosear.runtime.results import media_limit
from tests.helpers.processes import Process, inherited
from tests.helpers.wandb_offline import OfflineRun, offline_runs

ROOT = Path(__file__).parents[2]
SMALL = [
    "+experiment=mosear",
    "debug=fast",
    "callbacks.progress=null",
    "data.prepare.test_clips=4",
    "data.prepare.train_clips=12",
    "data.prepare.val_clips=12",
    "data.prepare.workers=1",
]
WHOLE = [
    "trainer.max_epochs=2",
    "trainer.max_steps=-1",
    "trainer.limit_test_batches=1.0",
    "trainer.limit_val_batches=1.0",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home directory with the corpus in it; W&B keeps its own files there too."""
    home = tmp_path_factory.mktemp("home")
    ensure_corpus(home / "data" / "synthetic", test_clips=4, train_clips=12, val_clips=12, workers=1)
    return home


def environment(home: Path) -> dict[str, str]:
    own = {"HOME": str(home), "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_API_KEY": "f" * 40}
    clean = {name: value for name, value in inherited().items() if not name.startswith("WANDB_")}
    return {**clean, **own, "COLUMNS": "140"}


def start(home: Path, *overrides: str) -> Process:
    command = ["train.py", *SMALL, f"data_dir={home / 'data'}", *overrides]
    return Process(command, env=environment(home), together=True)


def finish(process: Process) -> str:
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def run_dir(home):
    """A job that was killed as soon as W&B had its run, and then started again."""
    run_dir = home / "runs" / "a"
    overrides = [
        "logger=[csv,wandb]",
        "logger.wandb.media=clip",
        "logger.wandb.tags=[small]",
        "steering=ar",
        "data.val_subset=null",
        "data.eval_batch_size=50",
        f"hydra.run.dir={run_dir}",
        *WHOLE,
    ]
    killed = start(home, *overrides)
    while not any(path.stat().st_size > 7 for path in run_dir.glob("wandb/offline-run-*/run-*.wandb")):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)  # how far it came by then is chance
    time.sleep(1.1)  # the directory of a start is named by the second
    finish(start(home, *overrides))
    return run_dir


@pytest.fixture(scope="module")
def job(run_dir) -> OfflineRun:
    return offline_runs(run_dir)[-1]


@pytest.fixture(scope="module")
def metrics(run_dir):
    return json.loads((run_dir / "metrics.json").read_text())


def test_a_killed_job_goes_on_with_the_same_run(run_dir):
    runs = offline_runs(run_dir)
    assert len(runs) == 2
    assert {run.id for run in runs} == {(run_dir / RUN_ID_FILE).read_text().strip()}
    assert [run.exit_code for run in runs] == [None, 0]


def test_config_is_resolved_and_free_of_secrets_and_of_the_home_directory(job, home):
    assert job.config["data"]["train"] == "~/data/synthetic/train_natural.parquet"
    assert job.config["adapter"]["_target_"] == "mosear.experts.MoSEConfig"
    assert job.config["logger"]["wandb"]["tags"] == ["small"]
    text = json.dumps({name: value for name, value in job.config.items() if name != "_wandb"})
    assert str(home) not in text and str(ROOT) not in text and "f" * 40 not in text


def test_report_shows_the_same_config(run_dir, home):
    report = (run_dir / "report.html").read_text()
    assert "~/data/synthetic/train_natural.parquet" in report and str(home) not in report


def test_losses_and_gate_are_those_of_the_csv_log(job, run_dir):
    with (run_dir / "csv" / "metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    names = set(written[0]) - {"step", "epoch"}
    assert {"train/loss", "train/mixing_loss", "train/gate_kl", "val/loss", "val/subset_mean"} <= names
    assert any(name.startswith("train/gate_visual/layer_") for name in names)
    for name in names:
        expected = [(int(row["step"]), float(row[name])) for row in written if row[name]]
        found = [(row["trainer/global_step"], row[name]) for row in job.history if name in row]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_validation_mean_is_over_subsets(job):
    (row, *_) = [row for row in job.history if "val/subset_mean" in row]
    subsets = ("consistent", "video_aligned", "audio_aligned", "contextual")
    accuracies = [row[f"val/{subset}/accuracy"] for subset in subsets]
    assert row["val/subset_mean"] == pytest.approx(sum(accuracies) / 4)


def test_scores_of_every_system_and_subset_are_in_the_summary(job, metrics):
    for system, subsets in (("tuned", metrics["subsets"]), ("zero_shot", metrics["zero_shot"]["subsets"])):
        assert {"consistent", "video_aligned", "missing_video"} <= subsets.keys()
        for subset, values in subsets.items():
            for name in ("n", "accuracy", "macro_f1", "weighted_f1", "uar", "war", "unparsed"):
                assert job.summary[f"test/{system}/{subset}/{name}"] == pytest.approx(values[name])
    assert job.summary["test/tuned/conflict_mean"] == pytest.approx(metrics["conflict_mean"])
    assert job.summary["test/tuned/late_fusion/consistent"] == metrics["controls"]["late_fusion"]["consistent"]
    table = job.table("test/subsets")
    assert len(table["data"]) == 2 * len(metrics["subsets"]) and table["columns"][:2] == ["system", "subset"]


def numbers(node, path):
    """Every number below a node, by its path."""
    if isinstance(node, dict):
        return {key: value for name, own in node.items() for key, value in numbers(own, f"{path}/{name}").items()}
    return {path: node} if isinstance(node, int | float) and not isinstance(node, bool) else {}


def test_every_score_of_metrics_json_is_in_the_file_that_wandb_wrote(job, metrics):
    expected = {}
    for system, own in (("tuned", metrics), ("zero_shot", metrics["zero_shot"])):
        parts = {**own["subsets"], **{name: own[name] for name in ("conflict_mean", "gap")}, **own.get("controls", {})}
        expected |= numbers(parts, f"test/{system}")
    assert len(expected) > 100
    assert {name: job.summary.get(name) for name in expected} == expected
    assert [row["trainer/global_step"] for row in job.history if "train/loss" in row] == list(
        range(metrics["run"]["steps"])
    )


def test_confusion_matrices_count_the_predictions(job, run_dir):
    rows, labels = read_predictions(run_dir / "predictions.parquet")
    for system in ("zero_shot", "tuned"):
        for subset in {row.subset for row in rows}:
            own = [row for row in rows if (row.model, row.subset) == (system, subset)]
            expected = Counter((row.label, row.prediction or "unparsed") for row in own)
            table = job.table(f"confusion/{system}/{subset}_table")
            found = {(true, predicted): count for true, predicted, count in table["data"] if count}
            assert table["columns"] == ["Actual", "Predicted", "nPredictions"]
            assert found == expected
            assert len(table["data"]) == (len(labels) + 1) ** 2


def test_attention_and_gate_telemetry_are_tables(job, metrics):
    telemetry = metrics["steering_telemetry"]
    attention = job.table("attention/tuned")
    assert attention["columns"] == [
        *("layer", "head"),
        *(f"{kind} {time}" for time in ("before", "after") for kind in telemetry["modalities"]),
        "flagged",
    ]
    assert attention["data"] == [
        [layer, head, *before, *telemetry["after"][layer][head], telemetry["flagged"][layer][head]]
        for layer, heads in enumerate(telemetry["before"])
        for head, before in enumerate(heads)
    ]
    gate = job.table("gate/test")
    assert gate["columns"] == ["subset", "n", "layer", *metrics["gate"]["groups"]]
    for subset, n, layer, *weights in gate["data"]:
        assert metrics["gate"]["subsets"][subset]["n"] == n
        assert metrics["gate"]["subsets"][subset]["layers"][layer] == weights


def test_examples_carry_media_and_predictions(job, run_dir):
    rows, _ = read_predictions(run_dir / "predictions.parquet")
    predicted = {(row.id, row.model): row.prediction for row in rows}
    table = job.table("examples")
    shown = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert shown
    for row in shown:
        for system in ("zero_shot", "tuned"):
            assert row[system] == predicted[row["id"], system]
    _, files = job.artifacts[f"run-{job.id}-examples"]
    with_video = [row for row in shown if row["frames"] is not None]
    assert with_video and all(row["clip"] is not None for row in with_video)
    assert sum(name.endswith(".png") for name in files) == len(with_video)
    assert {Path(name).stem for name in files if name.endswith(".mp4")} == {row["id"] for row in with_video}


def test_report_and_adapter_are_artifacts(job, run_dir):
    kind, files = job.artifacts[f"report-{job.id}"]
    assert kind == "report" and set(files) == {"report.html", "metrics.json", "predictions.parquet"}
    kind, files = job.artifacts[f"adapter-{job.id}"]
    assert kind == "model"
    for path in (run_dir / "adapter").iterdir():
        assert files[path.name] == base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()


@pytest.mark.multinode
def test_two_processes_share_one_run(home):
    run_dir = home / "runs" / "two"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    overrides = [*SMALL, *WHOLE, f"data_dir={home / 'data'}", "logger=wandb", f"hydra.run.dir={run_dir}"]
    overrides += ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=2"]
    subprocess.run([*launcher, *overrides], cwd=ROOT, env=environment(home), check=True, timeout=900)
    (run,) = offline_runs(run_dir)
    assert run.exit_code == 0 and f"adapter-{run.id}" in run.artifacts
    assert len(run.metrics() & {"train/loss", "val/loss"}) == 2


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """W&B of this process writes below ``tmp_path`` and nowhere else."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "own"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)


def test_jobs_of_one_process_have_runs_of_their_own(tmp_path, offline):
    ends = {"done": None, "failed": ValueError("bad"), "stopped": SystemExit(75)}
    for name, error in ends.items():
        try:
            with closing_runs():
                RunDirectoryWandbLogger(save_dir=str(tmp_path / name)).log_metrics({"train/loss": 1.0}, step=0)
                if error is not None:
                    raise error
        except BaseException as raised:
            assert raised is error
    end = time.monotonic() + 60
    while any(run.exit_code is None for name in ends for run in offline_runs(tmp_path / name)):
        assert time.monotonic() < end, "W&B's own process writes the last record"
        time.sleep(0.2)
    runs = {name: offline_runs(tmp_path / name) for name in ends}
    assert [len(own) for own in runs.values()] == [1, 1, 1]
    assert [own[0].exit_code for own in runs.values()] == [0, 1, 75]
    assert len({own[0].id for own in runs.values()}) == 3


def test_run_id_comes_from_the_environment_then_from_the_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    first = run_id(tmp_path / "run")
    assert run_id(tmp_path / "run") == first != run_id(tmp_path / "other")
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    assert run_id(tmp_path / "run") == "trial7"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert run_id(tmp_path / "run") == "trial7"  # an agent's trial that is started again by hand


def test_unknown_media_is_refused(tmp_path):
    with pytest.raises(ValueError, match="media='film' must be one of frames, clip, none"):
        RunDirectoryWandbLogger(save_dir=str(tmp_path), media="film")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("media", "artifacts", "limit"), [("clip", True, 2.0), ("frames", True, 0.0), ("none", False, 2.0)]
)
def test_the_report_holds_no_clips_that_may_not_be_uploaded(tmp_path, offline, media, artifacts, limit):
    logger = RunDirectoryWandbLogger(save_dir=str(tmp_path), media=media, artifacts=artifacts)
    assert media_limit([CSVLogger(str(tmp_path)), logger], 2.0) == limit
    assert media_limit([], 2.0) == 2.0


def test_a_benchmark_s_own_metrics_are_in_the_summary():
    found = {"camer": {"overall": {"accuracy": 0.5, "n": 4, "note": "text is left out"}}}
    nothing = {"subsets": {}, "conflict_mean": None, "gap": None, "controls": {}}
    assert dict(scores({"tuned": {**nothing, "benchmark_metrics": found}, "zero_shot": nothing})) == {
        "benchmark/tuned/camer/overall/accuracy": 0.5,
        "benchmark/tuned/camer/overall/n": 4,
    }
