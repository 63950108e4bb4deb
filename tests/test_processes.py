"""The quick processes of the tests behave like plain ones: each case runs as both, and what they say is compared."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.processes import Process, inherited, run

ROOT = Path(__file__).parents[1]
SAY = "import sys; print('said', flush=True); print('complained', file=sys.stderr);"
LOADER = """
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

class Squares(Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return torch.tensor([index ** 2, get_worker_info().num_workers])

if __name__ == "__main__":
    for context in (None, "spawn"):
        print(torch.stack(list(DataLoader(Squares(), batch_size=None, num_workers=2, multiprocessing_context=context))))
"""
POOL = """
import multiprocessing, os

def square(number): return number ** 2, os.getcwd(), __name__

if __name__ == "__main__":
    for method in ("spawn", "fork", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(method, pool.map(square, range(3)))
"""
CASES = {
    "nothing": "",
    "success": SAY,
    "status": SAY + "sys.exit(7)",
    "sentence": SAY + "sys.exit('This is wrong.')",
    "no status": SAY + "sys.exit(None)",
    "error": SAY + "raise ValueError('wrong value')",
    "without an end": SAY + "import os; sys.stdout.flush(); os._exit(9)",
    "killed": SAY + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "terminated": SAY + "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "interrupted": SAY + "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "handlers at exit": "import atexit, threading, time\natexit.register(print, 'last')\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
    "where it is": "import os, sys\n"
    "print(os.getcwd(), sys.argv, sys.path[0], __file__, __name__, __spec__, __package__)",
    "environment": "import os; print(sorted(os.environ.items()))",
    "C's environment": "import os; os.system('echo $OWN $HOME')",
    "streams": "import sys\nfor file in (sys.stdin, sys.stdout, sys.stderr):\n"
    "    print(file.isatty(), file.encoding, file.name, file.line_buffering)\n"
    "print(repr(sys.stdin.read()))",
    "descriptors": "import os; print(sorted(os.listdir('/proc/self/fd'))[:3], os.getppid() > 1)",
    "signals": "import signal\nfor signum in sorted(signal.valid_signals()):\n"
    "    print(signum, str(signal.getsignal(signum))[:20])",
    "torch": "import torch; print(torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())",
    "main": "import sys; value = 3; print(sys.modules['__main__'].value)",
    "pickle": "import pickle\nclass Own: pass\nprint(type(pickle.loads(pickle.dumps(Own()))) is Own)",
    "loader": LOADER,
    "pool": POOL,
    "process of its own": "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1)'], check=True)",
}


@pytest.fixture
def environment(tmp_path):
    return {**inherited(), "OWN": "value of its own", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


def started_plainly(command, **options):
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    return subprocess.run([sys.executable, *command], check=False, timeout=900, **pipes, **options)


@pytest.mark.parametrize("name", CASES)
def test_a_script_behaves_like_a_plain_process(name, environment, tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "script.py").write_text(CASES[name])
    command, surroundings = ["scripts/script.py", "a", "b c"], {"cwd": tmp_path, "env": environment}
    plain = started_plainly(command, **surroundings)
    quick = run(command, **surroundings)
    assert (quick.returncode, quick.stdout) == (plain.returncode, plain.stdout)
    errors, expected = quick.stderr.splitlines(), plain.stderr.splitlines()
    assert errors[:2] == expected[:2] and errors[-3:] == expected[-3:]  # a traceback has the server's frames, too


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "mosear", "--version"],
        ["-m", "mosear", "predct"],
        ["-m", "mosear.predict", "nowhere.mp4"],
        ["-m", "json.tool", "--help"],
        ["-m", "mosear.nothing"],
    ],
)
def test_a_module_behaves_like_a_plain_process(command, tmp_path):
    surroundings = {"cwd": tmp_path, "env": {**inherited(), "PYTHONPATH": str(ROOT)}}
    plain = started_plainly(command, **surroundings)
    surroundings["env"] = inherited()
    quick = run(command, **surroundings)
    assert (quick.returncode, quick.stdout) == (plain.returncode, plain.stdout)
    assert quick.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]
    assert "RuntimeWarning" not in quick.stderr


def test_its_libraries_are_there_already(tmp_path):
    (tmp_path / "script.py").write_text("import sys; print(*(name in sys.modules for name in sys.argv[1:]))")
    done = run([tmp_path / "script.py", "torch", "lightning", "mosear.runtime.flows", "wandb", "deepspeed", "pytest"])
    assert done.stdout == "True True True False False False\n"


def test_random_numbers_differ_from_one_process_to_the_next(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import random, uuid, numpy, torch\n"
        "print(random.random(), numpy.random.rand(), uuid.uuid4(), torch.initial_seed())"
    )
    first, second = (run([script]).stdout.split() for _ in range(2))
    assert len({*first, *second}) == 8


def test_two_run_at_once_and_are_stopped_one_by_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); print('started', flush=True); time.sleep(300)"
    )
    processes = [Process([script, tmp_path / name], together=True) for name in "ab"]
    while not all((tmp_path / name).exists() for name in "ab"):
        time.sleep(0.01)
    first, second = processes
    assert first.pid != second.pid and first.poll() is second.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.01)
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == second.returncode == -signal.SIGTERM
    assert first.poll() is None
    first.kill()
    assert [process.communicate(60) for process in processes] == [("started\n", None)] * 2
    assert first.returncode == -signal.SIGKILL
    second.kill()  # of a process that has ended: nothing


def test_a_timeout_ends_the_process(tmp_path):
    script = tmp_path / "script.py"
    code = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))"
    script.write_text(f"{code}; time.sleep(900)")
    with pytest.raises(subprocess.TimeoutExpired):
        run([script, tmp_path / "pid"], timeout=20)
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_a_failure_is_raised_if_asked_for(tmp_path):
    (tmp_path / "script.py").write_text(CASES["sentence"])
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run([tmp_path / "script.py"], check=True)
    assert (raised.value.returncode, raised.value.stdout) == (1, "said\n")


@pytest.mark.parametrize("name", ["HF_HOME", "OMP_NUM_THREADS", "PYTHONHASHSEED", "TRANSFORMERS_OFFLINE"])
def test_what_imports_read_cannot_be_changed(name):
    with pytest.raises(ValueError, match=f"{name}='7'.*take subprocess"):
        run(["script.py"], env={**inherited(), name: "7"})
    with pytest.raises(ValueError, match="options of the interpreter"):
        run(["-c", "print(1)"])


def test_all_end_with_the_process_that_asked(tmp_path):
    """A test process that is killed leaves none behind."""
    (tmp_path / "script.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(300)")
    code = (
        "import os, signal, sys, time; from tests.helpers.processes import Process\n"
        f"child = Process([{str(tmp_path / 'script.py')!r}]); print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    child = Path("/proc", ended.stdout.strip())
    limit = time.monotonic() + 60
    while child.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    assert not child.exists()
