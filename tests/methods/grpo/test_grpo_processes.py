"""Two processes compute what one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.grpo_worker import VARIANTS, steps
from tests.helpers.torchrun import torchrun


@pytest.mark.slow
@pytest.mark.multinode
def test_two_processes_have_the_gradient_and_the_logs_of_one(qwen25_dir: Path, tmp_path: Path) -> None:
    """Samples of each prompt, redrawn groups, means of losses and rewards; as many passes on both where they must."""
    script = Path(__file__).parents[2] / "helpers" / "grpo_worker.py"
    done = torchrun(2, str(script), str(qwen25_dir), str(tmp_path), timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = steps(qwen25_dir)
    for name in VARIANTS:
        assert first[name]["logs"] == second[name]["logs"], "what is logged is the global mean"
        gap = "rollout_gap"
        mine, one = ({k: v for k, v in own[name]["logs"].items() if k != gap} for own in (first, alone))
        assert mine == pytest.approx(one, rel=1e-4, abs=1e-5)
        assert first[name]["gradient"].abs().max() > 0
        torch.testing.assert_close(first[name]["gradient"], alone[name]["gradient"], rtol=1e-3, atol=1e-5)
    assert 0 < alone["grpo"]["logs"]["zero_variance"] < 1, "some groups are alike"
    assert first["passes"][0] == second["passes"][0], "processes gather weights in step"
