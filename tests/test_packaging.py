"""What the package promises from outside: light imports, honest pins, and the house rules."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.helpers.run_if import RunIf

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "mosear").rglob("*.py"))
LONGEST_MODULE = 400
LONGEST_FUNCTION = 80

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]


def requirements(*extras: str) -> list[Requirement]:
    listed = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return [Requirement(line) for line in listed]


def pinned_versions() -> dict[str, Version]:
    return {name: Version(version) for name, version in (pin.split("==") for pin in PINS)}


@pytest.mark.parametrize("module", ["mosear", "mosear.runtime", "mosear.config.validation"])
def test_light_imports_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; assert not {{'torch', 'transformers', 'numpy'}} & set(sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_pins_are_exact_and_name_no_place() -> None:
    # No "@ https://...", no "--index-url", and no local version such as 2.13.0+cpu, which only one index serves.
    exact = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*==[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)?")
    assert [pin for pin in PINS if not exact.fullmatch(pin)] == []
    assert len(PINS) > 50


def test_pins_are_sorted_and_unique() -> None:
    names = [pin.split("==")[0] for pin in PINS]
    assert names == sorted(set(names))


@pytest.mark.parametrize("requirement", requirements("dev"), ids=str)
def test_pins_satisfy_the_declared_ranges(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pinned_versions()[requirement.name])


@pytest.mark.parametrize("requirement", requirements("dev", "deepspeed", "quant"), ids=str)
def test_every_requirement_has_a_floor(requirement: Requirement) -> None:
    assert any(clause.operator == ">=" for clause in requirement.specifier)


@pytest.mark.parametrize(("version", "welcome"), [("2.6.1", True), ("2.6.2", False), ("2.6.3", False), ("2.6.4", True)])
def test_the_malicious_lightning_releases_are_excluded(version: str, welcome: bool) -> None:
    (lightning,) = [requirement for requirement in requirements() if requirement.name == "lightning"]
    assert lightning.specifier.contains(version) is welcome


def test_the_package_is_typed() -> None:
    assert (ROOT / "mosear" / "py.typed").is_file()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_house_rules(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_MODULE
    too_long = {
        node.name: length
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert not too_long


@pytest.mark.slow
def test_run_if_counts_gpus() -> None:
    mark = RunIf(min_gpus=10_000).mark
    assert mark.args == (True,)
    assert re.fullmatch(r"needs 10000 GPUs \(found \d+\)", mark.kwargs["reason"])


def test_run_if_without_an_unmet_need_runs() -> None:
    assert RunIf().mark.args == (False,)


@pytest.mark.parametrize(("platform", "skipped"), [("linux", False), ("darwin", True)])
def test_run_if_knows_the_platform(monkeypatch: pytest.MonkeyPatch, platform: str, skipped: bool) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert RunIf(linux=True).mark.args == (skipped,)


def test_run_if_names_the_libraries_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.helpers.run_if.find_spec", lambda name: None)
    reason = RunIf(deepspeed=True, bitsandbytes=True).mark.kwargs["reason"]
    assert reason == "needs deepspeed (not installed), bitsandbytes (not installed)"


@pytest.mark.slow
def test_no_test_sees_what_another_did_to_torch(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_in_order.py").write_text(
        "import torch\n"
        "threads = torch.get_num_threads()\n"
        "drawn = []\n"
        "def test_first():\n"
        "    drawn.append(torch.rand(3))\n"
        "    torch.set_default_dtype(torch.float64)\n"
        "    torch.set_num_threads(threads + 1)\n"
        "    torch.set_grad_enabled(False)\n"
        "    torch.use_deterministic_algorithms(True)\n"
        "    store = torch.distributed.HashStore()\n"
        "    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)\n"
        "def test_second():\n"
        "    assert torch.equal(torch.rand(3), drawn[0])\n"
        "    assert torch.get_default_dtype() is torch.float32\n"
        "    assert torch.get_num_threads() == threads\n"
        "    assert torch.is_grad_enabled()\n"
        "    assert not torch.are_deterministic_algorithms_enabled()\n"
        "    assert not torch.distributed.is_initialized()\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in finished.stdout, finished.stdout


# Which room may import which: only rooms of a lower rank, and neighbours of the same rank where the design says so.
RANKS = {
    "files": 0,
    "moved": 0,
    "problems": 0,
    "registration": 0,
    "resolvers": 0,
    "roles": 0,
    "settings": 0,
    "startup": 0,
    "tensor_buffer": 0,
    "torchrun": 0,
    "backbones": 1,
    "data": 2,
    "experts": 2,
    "features": 3,
    "inference": 3,
    "steering": 4,
    "evaluation": 5,
    "fusion": 6,
    "methods": 6,
    "pretraining": 6,
    "callbacks": 7,
    "config": 7,
    "loggers": 7,
    "planning": 7,
    "runtime": 8,
    "commands": 9,
    "predict": 9,
    "__main__": 10,
}


def imported_rooms(module: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("mosear.")}
    return rooms


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(module: Path) -> None:
    path = module.relative_to(ROOT / "mosear")
    room = path.parts[0].removesuffix(".py")
    if room == "__init__":
        return
    upward = {other for other in imported_rooms(module) if RANKS[other] > RANKS[room]}
    assert not upward, f"{room} must not import {', '.join(sorted(upward))}"
