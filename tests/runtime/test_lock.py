"""One run per directory, and locks that killed runs have left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mosear.runtime import flows
from mosear.runtime.lock import LOCK, RunDirectoryInUseError, run_directory

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from mosear.runtime.lock import run_directory
with run_directory(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    for pipe in (process.stdin, process.stdout):
        pipe.close()
    process.wait()


def note(directory: Path, **about: object) -> None:
    (directory / LOCK).write_text(json.dumps(about))


def test_a_second_run_is_refused_until_the_first_has_ended(holder, tmp_path):
    refused = pytest.raises(
        RunDirectoryInUseError, match=rf"process {holder.pid} on .*hydra\.run\.dir.*delete .*run\.lock"
    )
    with refused, run_directory(tmp_path):
        pass
    assert (tmp_path / LOCK).is_file()
    holder.communicate("")
    with run_directory(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flow", [flows.train, flows.evaluate])
def test_both_flows_refuse_before_they_build_anything(flow, holder, tmp_path):
    name = "train" if flow is flows.train else "eval"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(name, overrides=[f"run_dir={tmp_path}"])
    with pytest.raises(RunDirectoryInUseError):
        flow(cfg)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_killed_run_leaves_a_lock_that_the_next_takes_over(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet waited for: its number is still there
    with run_directory(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_that_came_back_is_another_process(tmp_path):
    note(tmp_path, pid=os.getppid(), host=socket.gethostname(), started="1", job=None)
    with run_directory(tmp_path):
        pass
    note(tmp_path, pid=os.getpid(), host=socket.gethostname(), started="1", job=None)
    with run_directory(tmp_path):
        pass


def test_a_lock_of_another_machine_is_left_behind_only_by_the_same_job(tmp_path, monkeypatch):
    note(tmp_path, pid=1, host="elsewhere", started="1", job="7")
    for job in (None, "8"):
        monkeypatch.setenv("SLURM_JOB_ID", job) if job else monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        with pytest.raises(RunDirectoryInUseError, match="process 1 on elsewhere"), run_directory(tmp_path):
            pass
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with run_directory(tmp_path):
        pass


def test_what_is_no_lock_of_ours_stays(tmp_path):
    (tmp_path / LOCK).write_text("mine")
    with pytest.raises(RunDirectoryInUseError, match="a process that it does not name"), run_directory(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "mine"


def test_an_error_gives_the_directory_back_and_other_processes_of_the_run_take_no_part(tmp_path, monkeypatch):
    with pytest.raises(KeyError), run_directory(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with run_directory(tmp_path):
            pass
        assert (tmp_path / LOCK).is_file()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
