"""The benchmark of several processes trains and prints rates."""

from __future__ import annotations

import pytest

from benchmarks.processes import main
from mosear.data.synthetic.corpus import ensure_corpus


@pytest.mark.slow
@pytest.mark.multinode
def test_one_process_and_two(tmp_path, capsys):
    ensure_corpus(tmp_path / "synthetic", test_clips=4, train_clips=8, val_clips=4, workers=1)
    main([f"--data-dir={tmp_path}", "--prepared", "--trainers=ddp", "--batch=4", "--steps=2", "--rounds=1"])
    printed = capsys.readouterr().out
    assert "| cpu | 1 | 1 |" in printed and "| ddp | 2 | 1 |" in printed


def test_the_batch_must_divide(capsys):
    with pytest.raises(SystemExit):
        main(["--batch=5"])
    assert "must be 2 or more and divide --batch" in capsys.readouterr().err
