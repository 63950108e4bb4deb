"""The speed benchmark of MoSE layers, at sizes that say nothing about speed."""

import json
from pathlib import Path

import pytest

from benchmarks.experts import QUICK, WAYS, main, parsed

TINY = ["--tokens", "16", "--shapes", "32x48", "--clips", "1", "--repeats", "3", "--threads", "1"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed"])
def test_layer_and_step(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It compares mose with loop before it measures, so a run is also a test of its two implementations."""
    out = tmp_path / "found.json"
    main(["--parts", "layer", "step", "--dtypes", dtype, "--ranks", "1", "2", *TINY, "--json", str(out)])
    found = json.loads(out.read_text())
    layer, wider, step, _ = found["cases"]
    for case in found["cases"]:
        assert case["n"] == 3
        for key in ("seconds", "saved_mib", "peak_mib"):
            assert set(case[key]) == set(WAYS) and min(case[key].values()) > 0
        assert all(case["peak_mib"][way] > 0.5 * case["saved_mib"][way] for way in WAYS)
        assert case["saved_mib"]["loop"] > case["saved_mib"]["mose"]
    assert (layer["case"]["rank"], wider["case"]["rank"], step["case"]["part"]) == (1, 2, "step")
    size = 4 if dtype != "mixed" else 2  # of what enters the low-rank path
    for case, rank in ((layer, 3), (wider, 6)):
        low_rank = 16 * (32 + rank) * size  # x and A x, kept for the gradients of A and B
        casts = (32 * rank + rank * 48) * size if dtype == "mixed" else 0  # autocast's copies of A and B
        assert case["saved_mib"]["lora"] == (low_rank + casts) / 2**20
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_decoder_layer_of_the_large_model(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    main(["--parts", "decoder", "--dtypes", "bfloat16", "--ranks", "4", *TINY, "--json", str(out)])
    (case,) = json.loads(out.read_text())["cases"]
    assert case["saved_mib"]["loop"] > case["saved_mib"]["mose"] > 0


def test_quick_changes_defaults_only() -> None:
    args = parsed(["--quick", "--repeats", "7"])
    assert (args.repeats, args.tokens, args.parts) == (7, QUICK["tokens"], QUICK["parts"])
    assert parsed([]).repeats >= 20


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--repeats", "2"], "need 3 rounds"), (["--clock", "cpu", "--threads", "2"], "--threads=1")],
)
def test_senseless_measurements_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(options)
    assert message in capsys.readouterr().err
