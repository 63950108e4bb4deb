"""The table over many runs: the same systems, seeds and intervals as on the page."""

from __future__ import annotations

import re

import pytest

from mosear.evaluation import aggregate
from mosear.evaluation.aggregate import collect, differences, table
from mosear.evaluation.compare import compare
from mosear.evaluation.compare.collect import collect as collect_for_page
from mosear.evaluation.compare.collect import find_runs
from tests.helpers.comparison_runs import SUBSETS, write_run


def cell(interval, sign=""):
    mean, low, high = (100 * value for value in interval)
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def columns(rows, shift=1):
    """``{first cell: {heading: cell}}``."""
    return {row[0]: dict(zip(rows[0][shift:], row[shift:], strict=True)) for row in rows[1:]}


@pytest.fixture
def runs(tmp_path):
    """Two systems on two backbones, three seeds each, beside the bare backbones."""
    for backbone in ("tiny-omni", "other"):
        write_run(tmp_path / backbone / "bare", model="zero_shot", accuracy=0.4, backbone=backbone)
        for accuracy, experiment in ((0.6, "lora"), (0.8, "mosear")):
            for seed in range(3):
                directory = tmp_path / backbone / experiment / str(seed)
                write_run(directory, experiment=experiment, seed=seed, accuracy=accuracy, backbone=backbone)
    return tmp_path


def test_table_and_page_give_the_same_intervals(runs, monkeypatch, capsys):
    (page,) = compare([runs], runs / "page.html", clips=0, n_boot=500)
    pairs = [("lora", "zero-shot"), ("mosear", "zero-shot")]
    options = [part for pair in pairs for part in ("--minus", *pair)]
    monkeypatch.setattr("sys.argv", ["aggregate", str(runs), "--n-boot", "500", *options])
    aggregate.main()
    first, second = capsys.readouterr().out.split("\n\n")
    rows, compared = (
        [line.strip("| ").split(" | ") for line in text.splitlines() if "---" not in line] for text in (first, second)
    )
    assert rows == table(collect([runs]), n_boot=500)
    assert [row[:2] for row in rows[:5:3]] == [
        ["system", "bases x seeds"],
        ["zero-shot, late fusion + transcript", "2 x 1"],
    ]
    assert {row[1] for row in rows[4:]} == {"2 x 3"}
    found = columns(rows, 2)
    assert list(found) == list(page.accuracies)
    for name, intervals in page.accuracies.items():
        for key, interval in intervals.items():
            assert found[name][key.replace("_", " ")] == cell(interval), (name, key)
    found = columns(compared)
    assert list(found) == [" - ".join(pair) for pair in pairs]
    assert len(page.differences) == len(pairs) * (len(SUBSETS) + 2)
    for difference in page.differences:
        own = found[f"{difference.system} - zero-shot"][difference.key.replace("_", " ")]
        assert own == cell(difference.interval, "+"), difference


def test_without_options_both_draw_as_often(runs):
    (page,) = compare([runs], runs / "page.html", clips=0)
    assert columns(table(collect([runs])), 2)["mosear"]["gap"] == cell(page.accuracies["mosear"]["gap"])


def test_evaluations_of_three_seeds_adapters_are_three_seeds(tmp_path):
    for seed in range(3):
        trained = write_run(tmp_path / "training" / str(seed), experiment="mosear", seed=seed)
        write_run(tmp_path / "eval" / str(seed), experiment="eval", adapter=str(trained / "adapter"))
    (page,) = collect_for_page(find_runs([tmp_path / "eval"]))
    benchmark = collect([tmp_path / "eval" / str(seed) for seed in range(3)])
    for found in (page, benchmark):
        assert next(iter(found.systems)) == "mosear"
        assert list(found.systems["mosear"].hits["tiny-omni"]) == [0, 1, 2]
    assert table(benchmark, n_boot=20)[1][:2] == ["mosear", "1 x 3"]


def test_a_reference_is_a_control_and_no_base(tmp_path):
    for seed in range(2):
        write_run(tmp_path / "lora" / str(seed), seed=seed)
    write_run(tmp_path / "lora" / "other", backbone="other")
    write_run(tmp_path / "bare", model="zero_shot")
    write_run(tmp_path / "control", model="zero_shot", backbone="unbiased", accuracy=0.9)
    benchmark = collect([tmp_path / "lora", tmp_path / "bare"], [tmp_path / "control"])
    rows = table(benchmark, n_boot=50)
    assert rows[0] == [
        "system",
        "bases x seeds",
        *(subset.replace("_", " ") for subset in SUBSETS),
        "conflict mean",
        "gap",
    ]
    fused = [", late fusion", ", late fusion + transcript"]
    names = [name + more for name in ("zero-shot", "lora", "unbiased, zero-shot") for more in ("", *fused)]
    assert [row[0] for row in rows[1:]] == names
    assert [row[1] for row in rows[1::3]] == ["1 x 1", "2 x 1", "1 x 1"]
    message = (
        "'lora' and 'unbiased, zero-shot' were run on different backbones: ['tiny-omni', 'other'] and ['unbiased']"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        differences(benchmark, [("lora", "unbiased, zero-shot")], n_boot=50)


def test_what_makes_no_table_is_named(tmp_path):
    write_run(tmp_path / "a")
    with pytest.raises(ValueError, match="no system 'x' in these runs; there are: lora, lora, late fusion"):
        differences(collect([tmp_path]), [("lora", "x")], n_boot=50)
    write_run(tmp_path / "b", benchmark="second")
    with pytest.raises(ValueError, match="these runs are about synthetic, second"):
        collect([tmp_path])
    with pytest.raises(ValueError, match="is not a finished run"):
        collect([tmp_path / "a" / ".hydra"])
    write_run(tmp_path / "c", accuracy=0.1)
    with pytest.raises(ValueError, match="repeats lora on tiny-omni with seed 0"):
        collect([tmp_path / "a", tmp_path / "c"])
