"""The regression check says what got slower, and nothing else."""

from __future__ import annotations

import json
import math
import statistics

import pytest

from benchmarks import lm_head, regression
from benchmarks.side_by_side import ratios


def test_only_what_rose_beyond_the_tolerance_is_worse():
    stored = {"same": 1.0, "noise": 1.0, "slower": 1.0, "faster": 1.0, "not run": 5.0}
    found = {"same": 1.0, "noise": 1.14, "slower": 1.16, "faster": 0.5, "new": 3.0}
    text, worse = regression.report(stored, found, tolerance=0.15)
    assert worse == ["slower"]
    rows = {line.split("|")[1].strip(): line for line in text.splitlines()[2:]}
    assert set(rows) == set(found)
    assert "+16 % | worse" in rows["slower"] and "-50 % | better" in rows["faster"] and "new" in rows["new"]


STEERED = {f"steering: {way} / SDPA, attention, {phase}" for way in ("ar", "chase") for phase in ("prefill", "decode")}


@pytest.mark.parametrize(
    ("only", "names", "limit"),
    [
        ("steering", STEERED, math.inf),
        pytest.param("lm_head", {"lm_head: answer logits / all logits"}, 1, marks=pytest.mark.slow),
    ],
)
def test_stored_ratios_are_compared_and_renewed(only, names, limit, tmp_path, capsys):
    path = tmp_path / "ratios.json"
    options = ["--only", only, "--rounds=3", f"--stored={path}"]
    assert regression.main([*options, "--update"]) == 0
    stored = json.loads(path.read_text())
    assert set(stored) == names
    assert all(0 < ratio < limit for ratio in stored.values())
    path.write_text(json.dumps({name: ratio / 100 for name, ratio in stored.items()}))
    assert regression.main(options) == 1
    assert f"{len(names)} of {len(names)} ratios rose by more than 15 %" in capsys.readouterr().out


def test_answer_logits_cost_less_than_all_logits():
    seconds = lm_head.timed(lm_head.Problem(vocab=8_000, hidden=128))
    assert 0 < statistics.median(ratios(seconds, "naive")["answers"]) < 1


def test_options_are_checked(capsys):
    with pytest.raises(SystemExit):
        regression.main(["--rounds=1"])
    assert "--rounds=1 must be 3 or more" in capsys.readouterr().err
