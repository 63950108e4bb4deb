"""The command ``mosear``: sub-commands are found, help is quick, bash completes, other configs are taken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mosear.commands
from mosear.__main__ import main, usage
from mosear.commands import command_names, summary
from mosear.config.command_line import refuse_mistakes
from mosear.config.shipped import CONF

ROOT = Path(__file__).parents[2]
NAMES = {"aggregate", "cache", "calibrate", "compare", "evaluate", "export", "import-predictions", "predict", "prepare"}
HEAVY = {"torch", "transformers", "peft", "lightning", "numpy", "hydra", "pandas", "pyarrow", "datasets"}


def run(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "140", **environment}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=surroundings, timeout=300, check=False)


def test_the_help_lists_every_command():
    assert set(command_names()) >= NAMES
    lines = {line.split()[0]: line.split(None, 1)[1] for line in usage().splitlines() if line.startswith("  ")}
    assert lines == {name: summary(name) for name in command_names()}
    assert all(lines.values())


def test_a_module_is_a_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "say_hello.py").write_text('"""Greet."""\ndef main(arguments):\n    print(arguments)\n    return 3\n')
    monkeypatch.setattr(mosear.commands, "__path__", [*mosear.commands.__path__, str(tmp_path)])
    assert "say-hello           Greet\n" in usage()
    assert main(["say-hello", "--loud"]) == 3
    assert capsys.readouterr().out == "['--loud']\n"


def test_an_unknown_command_is_named(capsys):
    assert main(["predct"]) == 2
    assert capsys.readouterr().err.startswith("error: mosear has no command 'predct'. Did you mean predict?")


def test_help_is_quick_and_light():
    code = (
        "import resource, sys; from mosear.__main__ import main; main(['--help']);"
        f"assert not {HEAVY!r} & set(sys.modules), set(sys.modules);"
        "spent = resource.getrusage(resource.RUSAGE_SELF); assert spent.ru_utime + spent.ru_stime < 1, spent"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_configs_are_found_from_any_directory(name, tmp_path):
    done = run(sys.executable, "-m", "mosear", name, "seed=7", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\nseed: 7\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_configs_is_added(tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    recipe = "# @package _global_\ndefaults:\n  - override /adapter: mose\nname: mine\n"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(recipe)
    options = ["--config-dir", "conf", "+experiment=mine", "--cfg", "job"]
    done = run(sys.executable, "-m", "mosear", "train", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "name: mine\n" in done.stdout
    assert "MoSEConfig" in done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mosear ev", {"evaluate"}),
        ("mosear train +experiment=lo", {"+experiment=lora", "+experiment=lora_mixing"}),
        ("mosear evaluate steering=ar", {"steering=ar", "steering=ar_chase"}),
        ("mosear predict cl", set()),
    ],
)
def test_bash_completes(line, expected, tmp_path):
    tool = tmp_path / "mosear"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mosear "$@"\n')
    tool.chmod(0o755)
    words = line.split()
    script = (
        f'eval "$(mosear completion)"; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE="{line}"; '
        '_mosear_completion; echo "${COMPREPLY[@]}"'
    )
    done = run("bash", "-c", script, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == expected


def test_hydras_own_completion_passes_the_check():
    refuse_mistakes(["-sc", "query=bash"], CONF, "train")
    refuse_mistakes(["--shell-completion", "install=bash"], CONF, "eval")
