"""The speed benchmark of rollouts, at sizes that say nothing about speed."""

import json
from pathlib import Path

import pytest

from benchmarks.rollouts import PARTS, WAYS, main


@pytest.mark.slow
def test_it_measures_every_way_and_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    main(["--clips", "1", "--groups", "2", "--tokens", "3", "--repeats", "3", "--threads", "1", "--json", str(out)])
    (case,) = json.loads(out.read_text())["cases"]
    assert set(case["seconds"]) == set(WAYS) and min(case["seconds"].values()) > 0
    assert set(case["shares"]) == set(PARTS) and sum(case["shares"].values()) == pytest.approx(1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
