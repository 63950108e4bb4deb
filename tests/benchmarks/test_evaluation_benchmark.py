"""The evaluation benchmark measures what it says it does."""

from __future__ import annotations

import json

import pytest

from benchmarks.evaluation import CACHES, main, parsed
from mosear.data.synthetic.corpus import ensure_corpus


@pytest.mark.filterwarnings("ignore")
def test_both_parts_on_a_small_corpus(tmp_path, capsys):
    ensure_corpus(tmp_path / "synthetic", test_clips=3, train_clips=4, val_clips=2, missing_clips=1, workers=1, size=56)
    options = ["--batch=4", "--batches=2", "--repeats=3", "--workers=1", "--prepared", f"--data-dir={tmp_path}"]
    main([*options, "--parts=answers", "--written", "0", "4", f"--json={tmp_path}/answers.json"])
    own, four = json.loads((tmp_path / "answers.json").read_text())["cases"]
    assert own["clips"] == four["clips"] == 8 and own["n"] == 3
    assert own["agreement"] >= 0.75, "the embedded backbone writes the label that it finds most likely"
    assert own["accuracy"]["score"] == four["accuracy"]["score"], "scoring does not depend on what generation writes"
    main([*options, "--parts=waiting", f"--json={tmp_path}/waiting.json"])
    found = json.loads((tmp_path / "waiting.json").read_text())["cases"]
    assert [one["cache"] for one in found] == list(CACHES) and {one["clips"] for one in found} == {8}
    assert all(0 < one["data_wait_share"] < 1 for one in found)
    printed = capsys.readouterr().out
    assert printed.count("| until the end token | 8 |") == 1 and printed.count("| warm | 8 |") == 1


def test_options_are_checked(capsys):
    for options, complaint in (
        (["--batch=0"], "--batch and --batches must be at least 1"),
        (["--repeats=2"], "medians need 3 rounds"),
        (["--clock=cpu", "--threads=2"], "--clock=cpu adds up the threads"),
    ):
        with pytest.raises(SystemExit):
            parsed(options)
        assert complaint in capsys.readouterr().err
