"""Comparison of runs: the tests against literal ones, grouping, and what the page holds."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.stats import binomtest

from mosear.evaluation.bootstrap import Interval
from mosear.evaluation.compare import compare
from mosear.evaluation.compare.clips import Media, choose, clip_records
from mosear.evaluation.compare.collect import collect, find_runs
from mosear.evaluation.compare.multirun import CompareJobs
from mosear.evaluation.compare.scores import (
    Difference,
    calibration_error,
    choose_reference,
    corrected,
    reliability,
)
from mosear.evaluation.report.compare_page import as_json
from mosear.evaluation.significance import bootstrap_p, exact_test, holm, two_sided_binomial
from tests.helpers.comparison_runs import EVIL, LABELS, SUBSETS, write_run

# Significance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 0), (0, 1), (3, 6), (2, 9), (40, 130), (500, 1003)])
def test_the_exact_p_value_is_that_of_scipy(k, n):
    expected = binomtest(k, n).pvalue if n else 1.0
    assert two_sided_binomial(k, n) == pytest.approx(expected, rel=1e-9)


def test_one_run_on_each_side_gives_mcnemars_exact_test():
    rng = np.random.default_rng(0)
    first, second = rng.random(80) < 0.7, rng.random(80) < 0.55
    table = {(a, b): int(((first == a) & (second == b)).sum()) for a, b in itertools.product((False, True), repeat=2)}
    only_first, only_second = table[True, False], table[False, True]
    flips = only_first + only_second
    literal = sum(math.comb(flips, i) for i in range(flips + 1) if abs(i - flips / 2) >= abs(only_first - flips / 2))
    assert exact_test(first, second) == (only_first, only_second, pytest.approx(literal / 2**flips))


def test_several_runs_are_compared_by_their_mean_per_clip():
    tested = exact_test([1.0, 2 / 3, 1 / 3 + 1 / 3, 0.0], [0.5, 1.0, 2 / 3, 0.0])
    assert (tested.first_better, tested.second_better) == (1, 1)  # the third differs by rounding alone: a tie
    with pytest.raises(ValueError, match="same clips"):
        exact_test([1.0], [1.0, 0.0])


def literal_holm(p_values):
    """Step down through the sorted p-values; the adjusted one is the smallest level at which it is rejected."""
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i])

    def rejected(level):
        found = set()
        for step, index in enumerate(order):
            if p_values[index] * (count - step) > level:
                break
            found.add(index)
        return found

    levels = sorted({min(1.0, p * (count - step)) for p in p_values for step in range(count)} | {1.0})
    return [next((level for level in levels if i in rejected(level)), 1.0) for i in range(count)]


@pytest.mark.parametrize("seed", range(6))
def test_holm_is_the_smallest_level_that_rejects(seed):
    p_values = np.random.default_rng(seed).choice([0.0001, 0.004, 0.01, 0.02, 0.03, 0.2, 0.9], size=seed + 1).tolist()
    assert holm(p_values) == pytest.approx(literal_holm(p_values))
    assert holm([]) == []


def test_the_bootstrap_p_value_counts_replicates_on_the_other_side():
    assert bootstrap_p(np.array([1.0] * 97 + [-1.0] * 2)) == 2 * (1 + 2) / 100
    assert bootstrap_p(np.array([-1.0] * 99)) == 2 / 100
    assert bootstrap_p(np.zeros(99)) == 1.0


def test_a_verdict_needs_every_test_after_correction():
    sure = Difference(system="a", key="x", interval=Interval(0.1, 0.05, 0.15), bootstrap_p=0.001)
    exact = exact_test([1.0] * 3, [0.0] * 3)  # p = 0.25
    assert [d.gain for d in corrected([sure])] == [1]
    assert [d.gain for d in corrected([replace(sure, key="gap")])] == [-1]
    assert [d.gain for d in corrected([replace(sure, exact=exact)])] == [0]
    assert [d.gain for d in corrected([replace(sure, bootstrap_p=0.01)] * 6)] == [0] * 6


# Calibration ----------------------------------------------------------------------------------------------------------


def test_calibration_error_is_the_literal_one():
    rng = np.random.default_rng(3)
    confidence, right = rng.random(300), rng.random(300) < 0.6
    confidence[:3] = 0.0, 1.0, 0.3
    literal = 0.0
    for i in range(10):
        own = [j for j, p in enumerate(confidence) if (i / 10 <= p < (i + 1) / 10) or (i == 9 and p == 1.0)]
        if own:
            literal += len(own) / 300 * abs(np.mean([right[j] for j in own]) - np.mean([confidence[j] for j in own]))
    bins = reliability(confidence, right)
    assert calibration_error(bins) == pytest.approx(literal)
    assert sum(entry.n for entry in bins) == 300
    assert math.isnan(calibration_error(reliability([], [])))


# Grouping -------------------------------------------------------------------------------------------------------------


def test_seeds_backbones_steering_and_benchmarks_are_told_apart(tmp_path):
    write_run(tmp_path / "bare", model="zero_shot", accuracy=0.4)
    for seed in (0, 1, 10):
        write_run(tmp_path / "lora" / str(seed), seed=seed)
    write_run(tmp_path / "lora" / "other", backbone="other")
    write_run(tmp_path / "steered", model="zero_shot", steering="chase")
    write_run(tmp_path / "elsewhere", benchmark="second")
    first, second = collect(find_runs([tmp_path]))
    assert (first.name, second.name) == ("synthetic", "second")
    systems = [name for name, system in first.systems.items() if not system.control]
    assert systems == ["zero-shot", "zero-shot + chase", "lora"]
    assert {base: list(seeds) for base, seeds in first.systems["lora"].hits.items()} == {
        "tiny-omni": [0, 1, 10],
        "other": [0],
    }
    assert first.systems["lora"].size() == "2 backbones, 1 to 3 seeds each"
    assert [name for name, system in first.systems.items() if system.control][:2] == [
        "zero-shot, late fusion",
        "zero-shot, late fusion + transcript",
    ]
    assert next(iter(second.systems)) == "lora"
    assert choose_reference(first, None) == "zero-shot" and choose_reference(second, None) == "lora"
    with pytest.raises(ValueError, match="'x' is not among the systems on second: lora"):
        choose_reference(second, "x")


def test_jobs_are_found_in_their_order_and_may_be_named(tmp_path):
    for job in (10, 2, 1):
        write_run(tmp_path / "jobs" / str(job), seed=job)
    (tmp_path / "jobs" / "3").mkdir()  # did not finish
    found = find_runs([f"mine={tmp_path / 'jobs'}"])
    assert [(files.directory.name, name) for files, name in found] == [("1", "mine"), ("2", "mine"), ("10", "mine")]
    assert next(iter(collect(found)[0].systems)) == "mine"
    with pytest.raises(ValueError, match="is not a finished run and holds none"):
        find_runs([tmp_path / "jobs" / "3"])


def test_an_evaluated_adapter_belongs_to_the_system_that_was_trained(tmp_path):
    for seed in (4, 5):
        trained = write_run(tmp_path / "training" / str(seed), experiment="mosear", seed=seed)
        write_run(tmp_path / "eval" / str(seed), experiment="eval", adapter=str(trained / "adapter"))
    write_run(tmp_path / "eval" / "6", experiment="eval", adapter="somewhere/best-run/adapter")
    (benchmark,) = collect(find_runs([tmp_path / "eval"]))
    systems = {name: system for name, system in benchmark.systems.items() if not system.control}
    assert list(systems) == ["mosear", "best-run"]
    assert list(systems["mosear"].hits["tiny-omni"]) == [4, 5]


def test_jobs_that_differ_in_another_setting_are_named_after_it(tmp_path):
    for job, strength in enumerate((0.5, 2)):
        overrides = ("seed=0", "+answering.x=1", f"steering.chase.strength={strength}")
        write_run(tmp_path / str(job), steering="chase", overrides=overrides, accuracy=0.3 + 0.2 * job)
    (benchmark,) = collect(find_runs([tmp_path]))
    systems = [name for name, system in benchmark.systems.items() if not system.control]
    assert systems == ["lora + chase (steering.chase.strength=0.5)", "lora + chase (steering.chase.strength=2)"]


def test_the_same_answers_of_the_bare_backbone_count_once_others_are_refused(tmp_path):
    write_run(tmp_path / "a", model="zero_shot")
    write_run(tmp_path / "b", model="zero_shot")
    (benchmark,) = collect(find_runs([tmp_path]))
    assert len(benchmark.systems["zero-shot"].runs) == 1
    write_run(tmp_path / "0", model="zero_shot", readings=False)
    (benchmark,) = collect(find_runs([tmp_path]))
    assert [run.files.directory.name for run in benchmark.systems["zero-shot"].runs] == ["a"]  # it has readings
    assert list(benchmark.systems)[1:] == ["zero-shot, late fusion", "zero-shot, late fusion + transcript"]
    write_run(tmp_path / "c", model="zero_shot", accuracy=0.1)
    with pytest.raises(ValueError, match=r"repeats zero-shot on tiny-omni with seed 0 .*NAME=DIRECTORY"):
        collect(find_runs([tmp_path]))
    named = collect(find_runs([tmp_path / "a", f"mine={tmp_path / 'c'}"]))
    assert [name for name, system in named[0].systems.items() if not system.control] == ["zero-shot", "mine"]


def test_other_clips_are_refused(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1, clips=18)
    with pytest.raises(ValueError, match=r"covers other clips of synthetic than .* \(54 and 60 clips\)"):
        collect(find_runs([tmp_path]))


# Clips ----------------------------------------------------------------------------------------------------------------


def test_clips_are_shared_among_subsets_errors_first(tmp_path):
    write_run(tmp_path / "a", accuracy=0.9)
    (benchmark,) = collect(find_runs([tmp_path]))
    wrong = {name for name, row in benchmark.systems["lora"].runs[0].rows.items() if not row.correct}
    chosen = choose(benchmark, 30)
    assert {subset: sum(subset in name for name in chosen) for subset in SUBSETS} == dict.fromkeys(SUBSETS, 10)
    for subset, ids in benchmark.subsets.items():
        assert len(wrong & set(ids)) <= 10 and wrong & set(ids) <= set(chosen), subset
    assert len(choose(benchmark, 1000)) == 60 and choose(benchmark, 0) == []


def test_media_links_are_relative_and_escaped(tmp_path):
    write_run(tmp_path / "runs" / "a", media=tmp_path / "media")
    (benchmark,) = collect(find_runs([tmp_path / "runs"]))
    ids = next(iter(benchmark.subsets.values()))[:2]
    page = tmp_path / "pages" / "comparison.html"
    clip = clip_records(benchmark, ids, Media(page))["clips"][0]
    assert clip["video"] == "./../media/one%20clip%20%231.mp4"
    assert (clip["muted"], clip["lost"], clip["audio"]) == (True, [], None)
    (tmp_path / "media" / "one clip #1.mp4").rename(tmp_path / "one clip #1.mp4")
    assert clip_records(benchmark, ids, Media(page))["clips"][0]["lost"] == ["one clip #1.mp4"]
    moved = clip_records(benchmark, ids, Media(page, tmp_path))["clips"][0]
    assert moved["video"] == "./../one%20clip%20%231.mp4"


def test_a_clip_says_what_each_run_answered_and_the_means(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed, steering="chase")
    (benchmark,) = collect(find_runs([tmp_path]))
    name = benchmark.subsets["consistent"][3]
    rows = [run.rows[name] for run in benchmark.systems["lora + chase"].runs]
    (answer,) = clip_records(benchmark, [name], Media(tmp_path / "page.html"))["clips"][0]["answers"]
    assert answer["said"] == [LABELS.index(row.prediction) for row in rows]
    assert answer["right"] == sum(row.correct for row in rows)
    assert answer["face"] == pytest.approx(np.mean([row.p_visual for row in rows], axis=0), abs=1e-3)
    assert answer["conflict"] == pytest.approx(np.mean([row.conflict for row in rows]), abs=1e-3)
    assert answer["steered"] == [row.target for row in rows]
    assert answer["attention"] == [[0.5, 0.1, 0.4], [0.3, 0.25, 0.45]]


# The page -------------------------------------------------------------------------------------------------------------


def test_json_cannot_leave_its_script_element():
    value = {"x": EVIL + "\u2028&amp;"}
    text = str(as_json(value))
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text) == value


def contribution(values):
    shares = dict(zip(("visual", "audio", "text"), values, strict=True))
    interval = {key: [0.0, 0.5] for key in shares}
    known = all(value is not None for value in values)
    scores = {
        "none": 0.2,
        "all": 0.8,
        "shapley": dict.fromkeys(shares, 0.2),
        "interval": interval,
        "shares": shares,
        "share_interval": [0.1, 0.4] if known else None,
        "verdict": "undecided" if known else None,
    }
    return {"collapse_threshold": 0.167, "subsets": {"consistent": {"n": 20, "accuracy": scores, "log_prob": scores}}}


def test_the_page_holds_every_section_and_no_markup_of_others(tmp_path):
    telemetry = {
        "clips": 3,
        "modalities": ["audio", "visual", "text"],
        "before": [[[0.1, 0.2, 0.3]]],
        "after": [[[0.2, 0.2, 0.3]]],
    }
    telemetry |= {"flagged": [[0.5]]}
    write_run(tmp_path / "runs" / "0", model="zero_shot", extra={"contribution": contribution([None] * 3)})
    extra = {"contribution": contribution([0.3, 0.3, 0.4]), "steering_telemetry": telemetry}
    write_run(tmp_path / "runs" / "1", experiment=EVIL, steering="chase", extra=extra)
    (scored,) = compare([tmp_path / "runs"], tmp_path / "out" / "page.html", clips=12, n_boot=200)
    text = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    sections = re.findall(r'<h2 id="([a-z]+)', text)
    assert sections == ["accuracy", "differences", "gap", "reliability", "contribution", "steering", "clips", "runs"]
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))
    assert EVIL not in text and html.escape(EVIL.replace("_", " "), quote=False)[:20] in text
    assert text.count("<script") == 2 and "<img" not in text and '<b>"' not in text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text) and "unsafe-eval" not in text
    data = json.loads(re.search(r'id="clip-data">(.*?)</script>', text, re.S)[1])
    assert len(data["benchmarks"][0]["clips"]) == 12 and "12 of 60 clips are on this page" in text
    keys = ["conflict_mean", "gap", *SUBSETS]
    assert sorted(d.key for d in scored.differences) == sorted(keys)
    assert text.count('aria-label="Consistent') == 0 and "consistent, zero-shot:" in text


def test_without_clips_there_is_no_script(tmp_path):
    write_run(tmp_path / "runs" / "0")
    compare([tmp_path / "runs"], tmp_path / "page.html", clips=0, n_boot=50)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text and 'id="clips"' not in text
    with pytest.raises(ValueError, match="clips=-1"):
        compare([tmp_path / "runs"], tmp_path / "page.html", clips=-1)


def test_one_family_is_corrected_over_all_benchmarks(tmp_path):
    for benchmark in ("one", "two"):
        for seed, model in enumerate(("zero_shot", "tuned")):
            write_run(tmp_path / f"{benchmark}{seed}", model=model, benchmark=benchmark, accuracy=0.4 + 0.5 * seed)
    scored = compare([tmp_path], tmp_path / "page.html", n_boot=500)
    family = [d for one in scored for d in one.differences]
    assert [d.bootstrap_holm for d in family] == holm([d.bootstrap_p for d in family])
    exact = [d for d in family if d.exact is not None]
    assert [d.exact_holm for d in exact] == holm([d.exact.p for d in exact])
    assert len(family) == 10 and len(exact) == 6


def test_after_a_multirun_its_jobs_are_compared(tmp_path, caplog, capsys):
    for job in (0, 1):
        write_run(tmp_path / str(job), seed=job)
    cfg = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    CompareJobs(clips=5).on_multirun_end(cfg)
    assert (tmp_path / "comparison.html").is_file() and "comparison.html" in capsys.readouterr().out
    empty = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "empty")}}})
    CompareJobs().on_multirun_end(empty)
    assert "No comparison of the jobs" in caplog.text


@pytest.mark.parametrize("flow", ["train", "eval"])
def test_both_flows_ask_for_the_comparison(flow):
    cfg = OmegaConf.load(Path(__file__).parents[2] / "conf" / f"{flow}.yaml")
    target = cfg.hydra.callbacks.compare._target_
    assert target == f"{CompareJobs.__module__}.{CompareJobs.__name__}"
