"""The tutorials' commands, as they stand, in an empty directory beside train.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
_COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The blocks of commands of a page, in order."""
    return _COMMANDS.findall((TUTORIALS / page).read_text(encoding="utf-8"))


def follow(page: str, place: Path) -> None:
    """Runs a tutorial's commands one block after the other; a browser only says what it would open."""
    for name in ("train.py", "eval.py", "conf", "mosear"):
        (place / name).symlink_to(ROOT / name)
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "BROWSER": "echo", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    for block in commands(page):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=place, env=environment, capture_output=True, text=True, timeout=1800,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
def test_your_own_clips_ends_with_a_report(tmp_path: Path) -> None:
    follow("your-own-clips.md", tmp_path)
    for run in ("before", "tuned"):
        metrics = json.loads((tmp_path / "outputs" / "mine" / run / "metrics.json").read_text())
        assert {"consistent", "video_aligned", "audio_aligned"} <= set(metrics["subsets"])
        assert not (tmp_path / "outputs" / "mine" / run / "quarantine.jsonl").exists()
        assert "<html" in (tmp_path / "outputs" / "mine" / run / "report.html").read_text()[:400]
    assert (tmp_path / "outputs" / "mine" / "comparison.html").stat().st_size > 10_000


@pytest.mark.slow
def test_steer_a_model_ends_with_a_comparison(tmp_path: Path) -> None:
    follow("steer-a-model.md", tmp_path)
    assert json.loads((tmp_path / "ar.json").read_text())["backbone"] == "tiny-omni"
    steered = json.loads((tmp_path / "outputs" / "steered" / "by_hand" / "metrics.json").read_text())
    assert steered["steering"] == "ar"
    assert (tmp_path / "outputs" / "steered" / "comparison.html").stat().st_size > 10_000


def test_every_tutorial_has_commands_to_test() -> None:
    pages = sorted(path.name for path in TUTORIALS.glob("*.md"))
    assert pages == ["steer-a-model.md", "your-own-clips.md"]
    assert all(len(commands(page)) >= 4 for page in pages)
