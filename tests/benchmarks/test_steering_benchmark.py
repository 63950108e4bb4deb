"""The speed benchmark of steered attention, at sizes that say nothing about speed."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.steering import PHASES, STEERED, WAYS, interval, main, parsed

TINY = ["--tokens", "48", "--tail", "8", "--layers", "1", "--width", "32", "--mlp", "16"]
TINY += ["--repeats", "3", "--limit", "0", "--threads", "1"]


@pytest.mark.parametrize("part", ["attention", "model"])
def test_every_way_and_phase(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It compares the ways before it measures, so a run is also a test of the attention function."""
    out = tmp_path / "found.json"
    main(["--parts", part, *TINY, "--json", str(out)])
    found = json.loads(out.read_text())["cases"]
    assert [(case["case"]["dtype"], case["case"]["phase"]) for case in found] == [
        (dtype, phase) for dtype in ("float32", "bfloat16") for phase in PHASES
    ]
    for case in found:
        assert case["n"] == 3
        for key in ("seconds", "peak_mib"):
            assert set(case[key]) == set(WAYS) and min(case[key].values()) > 0
        assert set(case["extra_mib"]) == set(STEERED) and set(case["time_ratio"]) == set(WAYS[1:])
        for way, ratio in case["time_ratio"].items():
            low, high = case["time_interval"][way]
            assert 0 < low <= ratio <= high
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1


def test_eager_is_left_out_where_its_matrix_is_too_large(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    options = ["--parts", "attention", "--dtypes", "float32", "--phases", "prefill", "--eager-gib", "0"]
    main([*options, *TINY, "--json", str(out)])
    (case,) = json.loads(out.read_text())["cases"]
    assert "eager" not in case["seconds"]
    assert case["extra_to_eager"]["ar"] == case["extra_mib"]["ar"] * 2**20 / (28 * 48 * 48 * 4)


def test_the_interval_holds_the_median() -> None:
    values = torch.randn(40, generator=torch.Generator().manual_seed(0)).tolist()
    low, high = interval(values)
    assert min(values) < low < sorted(values)[20] < high < max(values)
    assert interval([1.5] * 5) == (1.5, 1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--repeats", "2"], "need 3 rounds"),
        (["--clock", "cpu", "--threads", "2"], "--threads=1"),
        (["--tail", "200"], "quarter of --tokens=512"),
    ],
)
def test_senseless_measurements_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(options)
    assert message in capsys.readouterr().err
