"""What a run says, and leaves behind, where something around it is not as it should be."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file

from mosear.callbacks.checkpoint_files import begin, commit
from mosear.config.validation import ConfigError
from mosear.files import os_errors
from mosear.resolvers import register_resolvers
from mosear.runtime.checks import check_training
from mosear.runtime.resume import settings_of
from mosear.runtime.told_errors import told_errors
from tests.helpers import processes
from tests.helpers.corpus import rendered_corpus
from tests.helpers.torchrun import torchrun

ROOT = Path(__file__).parents[2]
SIZES = {"test_clips": 4, "train_clips": 12, "val_clips": 12, "workers": 1}
SMALL = [
    *("+experiment=lora", "debug=fast", "callbacks.progress=null", "zero_shot=false"),
    *("answering.readings=false", "report.examples=0"),
    *(f"data.prepare.{name}={value}" for name, value in SIZES.items()),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return rendered_corpus(tmp_path_factory, **SIZES)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return processes.run(list(command), env={**processes.inherited(), "COLUMNS": "140"})


def refuse_constant(name: str):
    raise AssertionError(f"{name} is not JSON")


def strict(path: Path):
    return json.loads(path.read_text(), parse_constant=refuse_constant)


@pytest.mark.parametrize(
    "command",
    [
        ("train.py", "+experiment=lora", "hydra.run.dir={}"),
        ("train.py", "+experiment=lora", "debug=dry", "hydra.run.dir={}"),
        ("train.py", "-m", "seed=0,1", "hydra.sweep.dir={}"),
        ("eval.py", "hydra.run.dir={}"),
    ],
    ids=["train", "dry", "multirun", "eval"],
)
def test_a_run_directory_that_cannot_be_is_told(command, tmp_path):
    (tmp_path / "file").touch()  # not a chmod: root may write anywhere
    path = tmp_path / "file" / "run"
    done = run(*(part.format(path) for part in command))
    key = "hydra.sweep.dir" if "-m" in command else "hydra.run.dir"
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == (
        f"the run directory {path} cannot be written to: Not a directory. Give another one with {key}=DIR.\n"
    )


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT], ids=lambda n: errno.errorcode[n]
)
def test_what_the_system_refuses_is_a_sentence(number, capsys):
    with pytest.raises(SystemExit) as ended, told_errors():
        raise OSError(number, os.strerror(number), "data/clip.mp4")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert os.strerror(number) in said and "'data/clip.mp4'" in said and "data_dir=DIR" in said


def test_other_errors_of_the_system_keep_their_traceback():
    with pytest.raises(OSError, match="Bad file descriptor"), told_errors():
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def test_a_library_s_error_about_the_system_is_one(tmp_path):
    with pytest.raises(FileNotFoundError) as error, os_errors(tmp_path / "x"):
        save_file({"a": torch.zeros(2)}, tmp_path / "no" / "such" / "directory")
    assert error.value.errno == errno.ENOENT and error.value.filename == str(tmp_path / "x")
    with pytest.raises(ValueError, match="ours"), os_errors(tmp_path):
        raise ValueError("ours")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "the loss is nan"),
        (["trainer.limit_train_batches=1"], "the loss of the validation is nan"),
    ],
    ids=["step", "validation"],
)
def test_a_learning_rate_far_too_high_ends_with_a_sentence(options, said, data_dir, tmp_path):
    directory = tmp_path / "run"
    done = run(
        "train.py", *SMALL, f"data_dir={data_dir}", f"hydra.run.dir={directory}", "tuning.learning_rate=1e30", *options
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert said in done.stderr.strip().splitlines()[-1] and "tuning.learning_rate" in done.stderr
    for path in directory.glob("debug_dump/*/*/*.json"):
        strict(path)
    assert not (directory / "metrics.json").exists() and not (directory / "predictions.parquet").exists()


@pytest.mark.slow
def test_a_high_learning_rate_that_stays_finite_gives_finite_answers(data_dir, tmp_path):
    directory = tmp_path / "run"
    done = run("train.py", *SMALL, f"data_dir={data_dir}", f"hydra.run.dir={directory}", "tuning.learning_rate=1e6")
    assert done.returncode == 0, done.stderr
    strict(directory / "metrics.json")
    weights = load_file(directory / "adapter" / "adapter_model.safetensors").values()
    assert all(tensor.isfinite().all() for tensor in weights)


@pytest.mark.slow
def test_a_disk_without_room_for_the_adapter(data_dir, tmp_path):
    directory = tmp_path / "run"
    none = ["callbacks.checkpoint=null", "callbacks.preemption=null", "+trainer.enable_checkpointing=false"]
    full = [
        "+callbacks.interruption._target_=tests.helpers.training_child.Interruption",
        *("+callbacks.interruption.step=1", "+callbacks.interruption.where=disk_full"),
    ]
    done = run("train.py", *SMALL, *none, *full, f"data_dir={data_dir}", f"hydra.run.dir={directory}")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "File too large" in done.stderr and "hydra.run.dir=DIR" in done.stderr
    assert not list(directory.glob("adapter*")), "nothing half-written stays"


@pytest.mark.slow
def test_batches_larger_than_the_data(data_dir, tmp_path):
    """Clips repeat to fill the batch of training; evaluation sees each once."""
    directory = tmp_path / "run"
    large = ["data.batch_size=40", "data.eval_batch_size=500", "trainer.limit_test_batches=1.0"]
    done = run("train.py", *SMALL, *large, f"data_dir={data_dir}", f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    assert "12 training clips are fewer than the 40 of a step" in (directory / "run.log").read_text()
    subsets = strict(directory / "metrics.json")["subsets"].values()
    assert len(subsets) == 7 and {scores["n"] for scores in subsets} == {4}


@pytest.mark.multinode
@pytest.mark.slow
def test_more_processes_than_training_clips(tmp_path):
    directory = tmp_path / "run"
    parallel = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    own = ["data.prepare.train_clips=1", f"data_dir={tmp_path / 'data'}", f"hydra.run.dir={directory}"]
    done = torchrun(2, "train.py", *SMALL, *parallel, *own)
    assert done.returncode == 0, done.stderr
    assert "1 training clips are fewer than the 8 of a step" in (directory / "run.log").read_text()


@pytest.mark.parametrize("saved", [1, 2, 4])
def test_another_number_of_processes_is_told_before_weights_load(saved, tmp_path):
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[f"run_dir={tmp_path}", "resume=auto"])
    staging = begin(tmp_path / "checkpoints", 3)
    (staging / "state.ckpt").touch()
    commit(staging, step=3, world_size=saved, finished=False, settings=settings_of(cfg), data="x", libraries={})
    if saved == 1:
        check_training(cfg)
        return
    with pytest.raises(ConfigError, match=rf"(?s)written by {saved} process.*this run has 1.*Start {saved} process"):
        check_training(cfg)
    cfg.dry_run = True  # plans for another machine
    check_training(cfg)


def test_checkpoints_of_an_earlier_run_are_not_mixed_with_new_ones(tmp_path):
    """Its later steps would be kept and the new ones swept away; a resume would go on with the wrong run."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[f"run_dir={tmp_path}"])
    check_training(cfg)
    staging = begin(tmp_path / "checkpoints", 48)
    (staging / "state.ckpt").touch()
    commit(staging, step=48, world_size=1, finished=True, settings=settings_of(cfg), data="x", libraries={})
    with pytest.raises(
        ConfigError, match=r"(?s)an earlier run \(the last: step-000048\).*resume=auto.*hydra.run.dir=DIR"
    ):
        check_training(cfg)
    cfg.resume = "auto"
    check_training(cfg)


@pytest.mark.slow
def test_a_clock_that_goes_back_spoils_no_figure(data_dir, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "start, calls = time.time(), itertools.count()\n"
        "time.time = lambda: start - 60.0 * next(calls)\n"
        "time.time_ns = lambda: int(time.time() * 1e9)\n"
    )
    directory = tmp_path / "run"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "train.py", *SMALL, f"data_dir={data_dir}", f"hydra.run.dir={directory}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    figures = strict(directory / "metrics.json")["run"]
    assert 0 < figures["tuning_seconds"] < figures["total_seconds"] < 900
    assert figures["clips_per_second"] > 0 and 0 <= figures["data_wait_share"] <= 1
    assert not (directory / "run.lock").exists()


def test_no_duration_is_taken_from_the_clock_of_the_day():
    """``time.time()`` may jump. It dates a run and compares with dates of files; nothing else asks it."""
    asking = {
        str(path.relative_to(ROOT / "mosear")): path.read_text().count("time.time()")
        for path in (ROOT / "mosear").rglob("*.py")
        if "time.time()" in path.read_text()
    }
    assert asking == {"torchrun.py": 1, "data/cache/store.py": 1}


@pytest.mark.slow
def test_a_job_that_fails_hides_no_other(data_dir, tmp_path):
    rates = "tuning.learning_rate=1e30,1e-3"
    done = run("train.py", "-m", *SMALL, f"data_dir={data_dir}", f"hydra.sweep.dir={tmp_path}", rates)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    end = done.stderr.rpartition("1 job(s) of this multirun failed:")[2]
    assert "#0 (" in end and "tuning.learning_rate=1e+30" in end and "the loss is nan" in end
    assert not (tmp_path / "0" / "metrics.json").exists()
    strict(tmp_path / "1" / "metrics.json")


def test_jobs_whose_configs_cannot_be_are_all_named(tmp_path):
    done = run("train.py", "-m", f"hydra.sweep.dir={tmp_path}", "tuning.learning_rate=-1,-2")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "2 job(s) of this multirun failed:" in done.stderr
    assert "#0 (tuning.learning_rate=-1)" in done.stderr and "#1 (tuning.learning_rate=-2)" in done.stderr


@pytest.mark.slow
def test_jobs_of_a_multirun_have_directories_of_their_own(data_dir, tmp_path):
    done = run("train.py", "-m", *SMALL, f"data_dir={data_dir}", f"hydra.sweep.dir={tmp_path}", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert [strict(tmp_path / job / "metrics.json")["seed"] for job in ("0", "1")] == [0, 1]
    assert (tmp_path / "comparison.html").is_file()
