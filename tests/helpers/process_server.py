"""Forks processes that have the heavy libraries imported already; :mod:`tests.helpers.processes` starts it and asks it.

The process that imports answers requests and does nothing else. A child returns from :func:`serve` and becomes the
command: its streams, directory, environment, arguments and ``__main__`` are those of ``python COMMAND``. It ends like
Python, with tracebacks, threads, handlers at exit and exit codes, but does not take all modules apart: that takes long.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import importlib
import json
import multiprocessing.process
import os
import pkgutil
import random
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIBRARIES = ("pandas", "datasets", "pyarrow.dataset", "transformers", "lightning", "torchmetrics", "peft")
"""What runs import inside functions, beside what the modules of mosear import."""
LARGEST_REQUEST = 1 << 20


def import_all() -> None:
    """Import the libraries and mosear; the collector leaves them alone, so that children share their memory."""
    import mosear

    modules = [module.name for module in pkgutil.walk_packages(mosear.__path__, "mosear.")]
    gc.disable()
    for name in (*LIBRARIES, *(name for name in modules if not name.endswith("__main__"))):
        importlib.import_module(name)
    gc.enable()
    gc.freeze()


def serve(control: socket.socket) -> dict[str, Any]:
    """Start what is asked for, and tell how it ended; returns in the children alone."""
    children: dict[int, tuple[int, socket.socket]] = {}
    """Process descriptor: process, connection to who asked."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in children:
                poll.unregister(ready)
                tell_end(ready, *children.pop(ready))
                continue
            message, received, _, _ = socket.recv_fds(control, LARGEST_REQUEST, 4)
            if not message:
                for process, _ in children.values():
                    os.kill(process, signal.SIGKILL)
                os._exit(0)
            status, *streams = received
            if (process := os.fork()) == 0:
                for descriptor, (_, connection) in children.items():
                    os.close(descriptor)
                    connection.close()
                control.close()
                os.close(status)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                return json.loads(message)
            for stream in streams:
                os.close(stream)
            connection = socket.socket(fileno=status)
            connection.sendall(process.to_bytes(8, "little", signed=True))
            descriptor = os.pidfd_open(process)
            children[descriptor] = (process, connection)
            poll.register(descriptor, select.POLLIN)


def tell_end(descriptor: int, process: int, connection: socket.socket) -> None:
    """Send how a child ended."""
    _, status = os.waitpid(process, 0)
    os.close(descriptor)
    with connection, suppress(BrokenPipeError):  # the process that asked has gone
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "little", signed=True))


def ended(request: dict[str, Any]) -> int:
    """Run a command; returns the exit code."""
    code = 0
    try:
        become(**request)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            code = (end.code or 0) & 0xFF
        else:
            print(end.code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if code < 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return code


def become(command: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Be ``python COMMAND``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.process.ORIGINAL_DIR = cwd
    tempfile.tempdir = None
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].seed()
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __spec__=None, __cached__=None)
    sys.modules["__main__"] = main
    first, *rest = command
    if first == "-m":
        module, *rest = rest
        if not hasattr(sys.modules.get(module), "__path__"):  # `-m` is to run it, not to find it imported
            sys.modules.pop(module, None)
        sys.argv = ["-m", *rest]
        sys.path[0] = cwd
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]
        return
    sys.argv = [first, *rest]
    path = os.path.abspath(first)
    sys.path[0] = os.path.dirname(os.path.realpath(first))
    main.__dict__.update(__file__=path)
    exec(compile(Path(path).read_bytes(), path, "exec"), main.__dict__)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which end this process
    sys.path[0] = str(ROOT)
    import_all()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(ended(request))
