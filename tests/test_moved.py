"""Names that have moved say where they are now."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from mosear.moved import MOVED, new_name
from tests.helpers import processes

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("old", MOVED)
def test_the_new_name_exists_and_the_old_one_does_not(old: str) -> None:
    module, _, name = MOVED[old].rpartition(".")
    try:
        import_module(MOVED[old])
    except ModuleNotFoundError:
        assert hasattr(import_module(module), name)
    with pytest.raises(ImportError) as caught:
        parent, _, last = old.rpartition(".")
        exec(f"from {parent} import {last}") if last[0].isupper() or last == "sequence_state" else import_module(old)
    package = old if not old.startswith("mosear.training") else "mosear.training"  # Python asks for a package first
    assert f"{package} is now {MOVED[package]}" in str(caught.value)


def test_a_path_below_a_moved_module_is_found_too() -> None:
    assert new_name("mosear.training.optim.Tuning") == "mosear.methods.optim.Tuning"
    assert new_name("mosear.training.module.EmotionTuner") == "mosear.methods.omni_system.OmniSystem"
    assert new_name("mosear.backbones.load_backbone") is None


@pytest.mark.parametrize(
    ("module", "command"),
    [("mosear.steering.calibrate", "python -m mosear calibrate"), ("mosear.experts.export", "python -m mosear export")],
)
def test_an_old_command_names_the_new_one(module: str, command: str) -> None:
    finished = processes.run(["-m", module])
    assert finished.returncode != 0
    assert command in finished.stderr
