"""The wheel holds what a run needs, and its command works from an empty directory, without a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "callbacks.progress=null",
    "data.prepare.test_clips=2",
    "data.prepare.train_clips=8",
    "data.prepare.val_clips=2",
    "data.prepare.workers=1",
]


def yaml_files() -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}


def test_every_config_file_is_package_data():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["scripts"] == {"mosear": "mosear.__main__:main"}
    package = ROOT / "mosear"
    patterns = settings["tool"]["setuptools"]["package-data"]["mosear"]
    # glob follows the link mosear/conf, as setuptools does
    shipped = {path.relative_to(package).as_posix() for pattern in patterns for path in _glob(package, pattern)}
    assert yaml_files() <= shipped


def _glob(package: Path, pattern: str) -> list[Path]:
    first, *rest = pattern.split("/")
    below = package / first if rest else package
    return list(below.glob("/".join(rest) or first))


def surroundings() -> dict[str, str]:
    """Without PYTHONPATH, by which a checkout would be found."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return own | {"OMP_NUM_THREADS": "1", "COLUMNS": "140"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The command of a wheel, installed into an environment that borrows the libraries of this one."""
    home = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(home)]
    source = home / "source"
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("conf", "mosear"):  # a build leaves files in its directory
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*build, str(source)], check=True, timeout=600)
    (wheel,) = home.glob("mosear-*.whl")
    venv.create(home / "venv", symlinks=True, with_pip=False)
    python = home / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, timeout=600, env=surroundings())
    libraries = Path(sysconfig.get_paths(vars={"base": str(home / "venv")})["purelib"])
    # After the wheel's own directory; lines of other .pth files there (an editable mosear) are not read.
    (libraries / "borrowed.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return wheel, home / "venv" / "bin" / "mosear"


def run(tool: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [tool, *arguments]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=surroundings(), timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done


@pytest.mark.slow
def test_the_wheel_holds_the_configs(installed):
    wheel, _ = installed
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"mosear/{name}" for name in yaml_files()} <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "conf/")) for name in names)


@pytest.mark.slow
def test_the_command_works_from_an_empty_directory(installed, tmp_path):
    _, tool = installed
    assert "usage: mosear COMMAND" in run(tool, "--help", cwd=tmp_path).stdout
    run(tool, "train", "+experiment=lora", "debug=fast", *SMALL, "hydra.run.dir=RUN", cwd=tmp_path)
    assert (tmp_path / "RUN" / "report.html").is_file()
    clip = next((tmp_path / "data").rglob("*.mp4"))
    answer = run(tool, "predict", str(clip), "--adapter", "RUN/adapter", cwd=tmp_path)
    assert "answer: " in answer.stdout
    run(tool, "evaluate", "run=RUN", *SMALL[:1], "hydra.run.dir=EVALUATION", "debug=fast", *SMALL[1:], cwd=tmp_path)
    assert (tmp_path / "EVALUATION" / "metrics.json").is_file()
    for log in tmp_path.glob("*/run.log"):
        assert "[WARNING]" not in log.read_text(), log
