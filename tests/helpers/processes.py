"""Python processes that start in a moment: forked from a server that has imported torch, Lightning and mosear.

``run`` and ``Process`` are like ``subprocess.run`` and ``subprocess.Popen`` for ``[sys.executable, *command]`` with
``text=True``. All but the imports is the child's own: a child is a plain process in every other respect.

Tests of imports, of cold starts, of installed packages and of launchers take ``subprocess`` instead. So do commands
whose environment differs in what libraries read while they are imported; they are refused here.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
READ_BY_IMPORTS = (
    *("CUDA_", "DS_", "HF_", "LD_", "LOCAL_RANK", "MKL_", "MPL", "OMP_", "OPENBLAS_", "PYTHON", "RANK", "SLURM_"),
    *("TORCH", "TRANSFORMERS_"),
)
"""How the names of variables begin that count while libraries are imported.

HOME is not among them: a command can have a home directory of its own, but the Hugging Face cache stays the server's.
"""
START_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
"""The environment in which the server imports, from before any test has changed it."""


def inherited() -> dict[str, str]:
    """The environment of a command that is given none; without what libraries have added in this process since."""
    return dict(START_ENVIRONMENT)


class Process:
    """A running command.

    Args:
        command: what follows ``python``: a script or ``-m MODULE``, and its arguments.
        cwd: directory; the repository if not given.
        env: the whole environment.
        together: whether standard error goes where standard output goes.
    """

    def __init__(
        self,
        command: list[str | Path],
        *,
        cwd: str | Path = ROOT,
        env: Mapping[str, str] | None = None,
        together: bool = False,
    ) -> None:
        self.args = list(map(str, command))
        environment = dict(inherited() if env is None else env)
        refuse_other_imports(self.args, environment)
        self._output = output_file()
        self._errors = self._output if together else output_file()
        self.returncode: int | None = None
        self._status, theirs = socket.socketpair()
        request = {"command": self.args, "cwd": os.path.abspath(cwd), "environment": environment}
        with open(os.devnull) as nothing, theirs:
            streams = [theirs.fileno(), nothing.fileno(), self._output.fileno(), self._errors.fileno()]
            socket.send_fds(server(), [json.dumps(request).encode()], streams)
        self.pid = self._told()

    def _told(self) -> int:
        told = self._status.recv(8)
        if not told:
            raise RuntimeError(f"The server of processes has ended; it could not run {self.args}.")
        return int.from_bytes(told, "little", signed=True)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; ``None`` while the command runs."""
        return self._ended(0)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = self._told()
            self._status.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the exit code."""
        if (code := self._ended(timeout)) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str | None]:
        """Wait for the end; returns standard output and standard error."""
        self.wait(timeout)
        output = written(self._output)
        return output, None if self._errors is self._output else written(self._errors)

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def output_file() -> Any:
    """A file for what a process writes; it has no name, so nothing is left behind."""
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def written(file: Any) -> str:
    """What a process has written; closes the file."""
    with file:
        file.seek(0)
        return file.read()


def run(
    command: list[str | Path],
    *,
    cwd: str | Path = ROOT,
    env: Mapping[str, str] | None = None,
    timeout: float | None = 900,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; see :class:`Process`."""
    process = Process(command, cwd=cwd, env=env)
    try:
        output, errors = process.communicate(timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    done = subprocess.CompletedProcess(process.args, process.returncode or 0, output, errors)
    if check:
        done.check_returncode()
    return done


def refuse_other_imports(command: list[str], environment: Mapping[str, str]) -> None:
    """Refuse an environment in which imports could have gone another way, and options of the interpreter."""
    if command[0].startswith("-") and command[0] != "-m":
        raise ValueError(f"{command[0]!r} is no script and not -m; take subprocess for options of the interpreter.")
    for name in sorted({*environment, *START_ENVIRONMENT}):
        ours, theirs = START_ENVIRONMENT.get(name), environment.get(name)
        if name.startswith(READ_BY_IMPORTS) and ours != theirs:
            raise ValueError(
                f"{command} is to run with {name}={theirs!r}, but the libraries were imported with {ours!r}; "
                "take subprocess where such a variable differs."
            )


@cache
def server() -> socket.socket:
    """The connection to this process's server, which the first call starts."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = output_file()
    with theirs:
        started = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("process_server.py"), str(theirs.fileno())],
            env=START_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
        )
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:
            ours.shutdown(socket.SHUT_RDWR)  # also where a child of this process has the socket, too
            ours.close()
            started.wait()
            log.close()

    atexit.register(end)
    return ours
