"""The GPU check runs as a whole on a CPU, at a size that says nothing about speed."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_check import main
from tests.helpers.run_if import RunIf


@RunIf(bitsandbytes=True)
@pytest.mark.slow
def test_every_part_runs_on_a_small_model(tmp_path, capsys):
    sizes = ["--batch=2", "--frames=2", "--seconds=2", "--repeats=3", "--steps=12"]
    assert main(["--size=tiny", "--device=cpu", f"--dir={tmp_path}", *sizes]) == 0, "the loss must fall"
    printed = capsys.readouterr().out
    assert printed.count("| bf16 |") == 2 and printed.count("| nf4 |") == 2
    assert "Loss over 12 steps" in printed and "steered takes" in printed and "aten::" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_that_there_is_no_gpu(capsys):
    assert main([]) == 1
    assert "--size tiny --device cpu" in capsys.readouterr().err
