"""The launch scripts: checked by shellcheck, and run. The cluster around ``slurm.sbatch`` is played by two scripts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mosear.data.synthetic.corpus import ensure_corpus

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.rglob("*") if path.suffix in (".sh", ".sbatch"))
JOB = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node[1-2]"}

# Like SLURM's: options are dropped, tasks learn their number, signals are passed on, the task's status is srun's.
SRUN = """#!/usr/bin/env bash
while [[ "$1" == -* ]]; do shift; done
SLURM_NODEID=0 "$@" &
task=$!
trap 'kill -USR1 $task' USR1
while true; do
  wait $task
  status=$?
  kill -0 $task 2>/dev/null || break
done
exit $status
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$RECORD/scontrol"
[[ "$1 $2" == "show hostnames" ]] && printf 'node1\\nnode2\\n'
exit 0
"""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def interpreter(directory: Path, body: str) -> Path:
    """Stands where torchrun's interpreter does: notes its arguments and environment, then does ``body``."""
    names = ["MASTER_ADDR", "MASTER_PORT", "NNODES", "NODE_RANK", "JOB_ID"]
    return executable(
        directory / "interpreter",
        f"#!{sys.executable}\nimport json, os, signal, sys, time\n"
        f"kept = {{name: os.environ.get(name) for name in {names}}}\n"
        f"with open({str(directory / 'seen.tmp')!r}, 'w') as file:\n"
        "    json.dump({'arguments': sys.argv[1:], 'environment': kept}, file)\n"
        f"{body}\n",
    )


def seen(directory: Path) -> dict:
    return json.loads((directory / "seen.tmp").read_text())


def launched(directory: Path, *overrides: str, **environment: str) -> list[str]:
    """What ``torchrun.sh`` hands to the interpreter."""
    python = interpreter(directory, "")
    own = {"PATH": os.environ["PATH"], "PYTHON": str(python), "NPROC_PER_NODE": "2", **environment}
    subprocess.run([LAUNCH / "torchrun.sh", *overrides], env=own, check=True, cwd=directory)
    return seen(directory)["arguments"]


def parsed(arguments: list[str]):
    from torch.distributed.run import get_args_parser

    assert arguments[:2] == ["-m", "torch.distributed.run"]
    return get_args_parser().parse_args(arguments[2:])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("needs shellcheck (not installed)")
    done = subprocess.run([found, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_one_machine_needs_nothing_but_the_command(tmp_path):
    arguments = parsed(launched(tmp_path, "+experiment=mosear", "trainer=ddp", "name=two words"))
    assert arguments.standalone and arguments.nnodes == "1" and arguments.nproc_per_node == "2"
    assert arguments.training_script == "train.py"
    assert arguments.training_script_args == ["+experiment=mosear", "trainer=ddp", "name=two words"]
    assert "SIGUSR1" in arguments.signals_to_handle and arguments.shutdown_timeout == 30


def test_several_machines_meet_at_one_address(tmp_path):
    several = {"NNODES": "2", "MASTER_ADDR": "host-a", "JOB_ID": "j7", "MAX_RESTARTS": "3"}
    for rank in (0, 1):
        arguments = parsed(launched(tmp_path, "trainer=zero2", NODE_RANK=str(rank), **several))
        assert (arguments.nnodes, arguments.node_rank, arguments.rdzv_id) == ("2", rank, "j7")
        assert (arguments.rdzv_backend, arguments.master_addr, arguments.master_port) == ("static", "host-a", 29500)
        assert arguments.max_restarts == 3
        assert arguments.training_script_args == ["trainer.num_nodes=2", "trainer=zero2"]


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "NODE_RANK"])
def test_what_is_missing_for_several_machines_is_named(missing):
    own = {"PATH": os.environ["PATH"], "PYTHON": "true", "NPROC_PER_NODE": "1", "NNODES": "2"}
    given = {"MASTER_ADDR": "host-a", "NODE_RANK": "0"}
    given.pop(missing)
    done = subprocess.run([LAUNCH / "torchrun.sh"], env={**own, **given}, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and f"set {missing} to" in done.stderr


def test_batch_file_asks_slurm_for_a_warning_and_a_requeue():
    directives = re.findall(r"^#SBATCH (.+)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--signal=B:USR1@90", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= set(directives)


class Cluster:
    """Runs the body of ``slurm.sbatch`` as SLURM's batch step would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        executable(directory / "bin" / "srun", SRUN)
        executable(directory / "bin" / "scontrol", SCONTROL)

    def submit(self, python: str | Path, *overrides: str) -> subprocess.Popen[str]:
        path = f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "RECORD": str(self.directory), "SLURM_SUBMIT_DIR": str(ROOT), "PYTHON": str(python)}
        environment = {**os.environ, **JOB, **own, "NPROC_PER_NODE": "1", "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(["bash", str(LAUNCH / "slurm.sbatch"), *overrides], env=environment, **pipes)

    def requeued(self) -> bool:
        record = self.directory / "scontrol"
        return record.exists() and "requeue 4242" in record.read_text()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


LISTENING = (
    "signal.signal(signal.SIGUSR1, lambda *_: sys.exit({code}))\nopen({ready!r}, 'w').write('x')\ntime.sleep(600)"
)


@pytest.mark.parametrize(("body", "status"), [("", 0), ("sys.exit(3)", 3)])
def test_a_job_that_ends_by_itself_keeps_its_status(body, status, tmp_path):
    cluster = Cluster(tmp_path)
    job = cluster.submit(interpreter(tmp_path, body), "trainer=zero2", "name=two words")
    job.communicate(timeout=60)
    assert job.returncode == status and not cluster.requeued()
    assert seen(tmp_path)["arguments"][-4:] == [
        *("resume=auto", "hydra.run.dir=outputs/slurm-4242"),
        *("trainer=zero2", "name=two words"),
    ]
    expected = {"MASTER_ADDR": "node1", "MASTER_PORT": "24242", "NNODES": "1", "NODE_RANK": "0", "JOB_ID": "4242"}
    assert seen(tmp_path)["environment"] == expected


@pytest.mark.parametrize(("code", "requeued"), [(1, True), (75, True), (0, False)])
def test_the_warning_reaches_the_job_which_is_queued_again_unless_it_was_done(code, requeued, tmp_path):
    cluster, ready = Cluster(tmp_path), tmp_path / "ready"
    job = cluster.submit(interpreter(tmp_path, LISTENING.format(code=code, ready=str(ready))))
    wait_for(ready, job)
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=60)
    assert job.returncode == 0 and cluster.requeued() is requeued


@pytest.mark.multinode
def test_a_real_job_is_stopped_in_time_and_goes_on_where_it_was(tmp_path):
    """torchrun and train.py themselves, inside the batch file."""
    ensure_corpus(tmp_path / "data" / "synthetic", test_clips=4, train_clips=16, val_clips=4, workers=1)
    run_dir = tmp_path / "run"
    overrides = [
        *("+experiment=lora", "debug=fast", "callbacks.progress=null", "zero_shot=false", "report.examples=0"),
        *(
            "trainer.max_epochs=20",
            "trainer.max_steps=-1",
            "trainer.limit_train_batches=1.0",
            "trainer.check_val_every_n_epoch=20",
        ),
        *("callbacks.checkpoint.every_n_steps=8", "data.prepare.test_clips=4", "data.prepare.train_clips=16"),
        *("data.prepare.val_clips=4", "data.prepare.workers=1", f"data_dir={tmp_path / 'data'}"),
        f"hydra.run.dir={run_dir}",
    ]
    cluster = Cluster(tmp_path)
    first = cluster.submit(sys.executable, *overrides)
    while not list(run_dir.glob("checkpoints/step-*/COMPLETE")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.02)
    first.send_signal(signal.SIGUSR1)
    printed, _ = first.communicate(timeout=300)
    assert first.returncode == 0 and cluster.requeued(), printed
    assert not (run_dir / "metrics.json").exists(), "it was done before it could be stopped"
    second = cluster.submit(sys.executable, *overrides)
    printed, _ = second.communicate(timeout=600)
    assert second.returncode == 0, printed
    assert "goes on at step" in (run_dir / "run.log").read_text()
    assert json.loads((run_dir / "metrics.json").read_text())["run"]["steps"] == 80
