"""``+experiment=r1_omni``: cold start, reinforcement learning, a test on written answers, in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import processes


@pytest.mark.slow
def test_the_experiment_runs_as_a_whole(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ["debug=fast", f"data_dir={tmp_path / 'data'}", f"hydra.run.dir={run}", "data.prepare.ood_clips=2"]
    done = processes.run(["train.py", "+experiment=r1_omni", *small, "method.group_size=3"], check=True)
    assert "Cold start done" in done.stdout
    assert "Total length of" not in done.stderr + done.stdout, "without validation clips nothing is asked of Lightning"
    cold, rl = (json.loads((path / "metrics.json").read_text()) for path in (run / "cold_start", run))
    assert cold["run"]["steps"] == rl["run"]["steps"] == 2
    assert "ood" in cold["subsets"] and "ood" in rl["subsets"]
    assert {"reward/accuracy", "reward/format", "reward/evidence", "parsed", "kl"} <= set(rl["grpo"]["last"])
    assert "<think>" in (run / "completions.csv").read_text() or (run / "completions.csv").is_file()
