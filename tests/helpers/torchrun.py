"""Recipes trained by one process and by several, and how far apart the adapters end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.helpers.processes import Process

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("train_worker.py")

Recipes = Mapping[str, Sequence[str]]
"""Overrides of train.py by name."""


def torchrun(processes: int, *command: str, timeout: int = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script under torchrun, on one thread per process; its output."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [*launcher, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "140", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def train(recipes: Recipes, out: Path, processes: int = 1) -> Path:
    """Train every recipe; returns ``out`` with an adapter and facts per recipe."""
    out.mkdir(parents=True, exist_ok=True)
    spec = out / "spec.json"
    spec.write_text(json.dumps({name: list(overrides) for name, overrides in recipes.items()}))
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    started = [Process([WORKER, spec, out, str(rank), str(processes), str(port)]) for rank in range(processes)]
    ended = [process.communicate(timeout=900) for process in started]
    assert [process.returncode for process in started] == [0] * processes, ended
    return out


def facts(directory: Path, rank: int = 0) -> dict[str, Any]:
    """What a process noted of a recipe."""
    return json.loads((directory / f"facts.{rank}.json").read_text())


def adapter(directory: Path) -> dict[str, Any]:
    """The adapter's tensors."""
    from safetensors.torch import load_file

    return load_file(directory / "adapter" / "adapter_model.safetensors")


def distance(first: Path, second: Path) -> float:
    """``|a - b| / |a - start|`` over all tensors that start at zero (B and gates), whose values are all learned."""
    one, other = adapter(first), adapter(second)
    assert one.keys() == other.keys()
    learned = [name for name in one if any(part in name for part in ("lora_B", "mose_B", "mose_W"))]
    size = sum(float(one[name].double().square().sum()) for name in learned) ** 0.5
    apart = sum(float((one[name].double() - other[name].double()).square().sum()) for name in learned) ** 0.5
    assert size > 0, "nothing was learned"
    return apart / size
