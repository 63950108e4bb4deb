"""The growth benchmark: each series changes one thing."""

from __future__ import annotations

import json

import pytest

from benchmarks import growth


def test_a_series_changes_one_thing_and_its_powers_follow(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "SERIES", {"clips": (1, 2), "seconds": (2, 4)})
    path = tmp_path / "found.json"
    growth.main(["--repeats=3", "--series", "clips", "seconds", "--threads=1", f"--json={path}"])
    clips, seconds = json.loads(path.read_text())["cases"]
    assert clips["tokens"]["1"] <= clips["tokens"]["2"] < 1.2 * clips["tokens"]["1"]
    assert 1.5 < seconds["tokens"]["4"] / seconds["tokens"]["2"] < 2.1, "picture and sound doubled, the text did not"
    for found in (clips, seconds):
        for what in ("step", "encode", "memory"):
            assert next(iter(found[what].values())) == 1
    assert capsys.readouterr().out.count("\n| ") == 2


def test_power():
    assert growth.power([2, 4, 8], [1.0, 4.0, 16.0]) == pytest.approx(2)
    assert growth.power([2, 4], [3.0, 3.0]) == 0
