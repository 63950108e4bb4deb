import itertools
import time

import numpy as np
import pytest
from scipy.stats import norm

from mosear.evaluation.bootstrap import (
    Interval,
    Resampled,
    bootstrap_interval,
    conflict_mean_statistic,
    drawn_sums,
    gap_statistic,
    nested_bootstrap,
    nested_paired_difference,
    paired_difference,
)


def flips(rng, p, shape):
    return (rng.random(shape) < p).astype(float)


def width(interval):
    return interval.high - interval.low


def slow_replicates(correct, n_boot, seed):
    """The definition, one replicate at a time: draw seeds, draw clips, average."""
    rng = np.random.default_rng(seed)
    seeds, clips = correct.shape
    values = []
    for _ in range(n_boot):
        drawn = correct[rng.integers(0, seeds, seeds)][:, rng.integers(0, clips, clips)]
        values.append(drawn.mean())
    return np.array(values)


@pytest.mark.parametrize("shape", [(1, 200), (4, 60)])
def test_agrees_with_the_literal_loop(shape):
    rng = np.random.default_rng(0)
    correct = flips(rng, rng.uniform(0.5, 0.9, (shape[0], 1)), shape)
    interval = bootstrap_interval(correct, n_boot=8000)
    low, high = np.quantile(slow_replicates(correct, 8000, seed=1), [0.025, 0.975])
    assert interval.mean == pytest.approx(correct.mean())
    assert interval.low == pytest.approx(low, abs=0.008)
    assert interval.high == pytest.approx(high, abs=0.008)


@pytest.mark.parametrize("p", [0.3, 0.5, 0.85])
def test_agrees_with_binomial_standard_error(p):
    n = 1000
    correct = np.r_[np.ones(int(n * p)), np.zeros(n - int(n * p))]
    interval = bootstrap_interval(correct, n_boot=6000)
    assert width(interval) == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / n), rel=0.05)


def test_coverage_over_clips():
    rng = np.random.default_rng(2)
    p, inside, trials = 0.7, 0, 400
    for trial in range(trials):
        interval = bootstrap_interval(flips(rng, p, 150), n_boot=400, seed=trial)
        inside += interval.low <= p <= interval.high
    assert 0.92 <= inside / trials <= 0.98


def test_coverage_over_seeds_and_clips():
    """Training noise moves a whole run: intervals over clips alone miss it, nested ones cover it."""
    rng = np.random.default_rng(3)
    nested = clips_only = 0
    trials = 250
    for trial in range(trials):
        difficulty = rng.normal(0, 1, 200)
        skill = rng.normal(0.5, 0.4, (12, 1))
        correct = (skill + difficulty > rng.normal(0, 0.3, (12, 200))).astype(float)
        truth = norm.cdf(0.5 / np.sqrt(0.4**2 + 1 + 0.3**2))
        interval = bootstrap_interval(correct, n_boot=400, seed=trial)
        nested += interval.low <= truth <= interval.high
        single = bootstrap_interval(correct[0], n_boot=400, seed=trial)
        clips_only += single.low <= truth <= single.high
    assert 0.90 <= nested / trials <= 0.985
    assert clips_only / trials < 0.75


def test_coverage_of_paired_difference():
    rng = np.random.default_rng(4)
    inside, trials = 0, 300
    for trial in range(trials):
        luck = rng.random(200)
        interval = paired_difference(luck < 0.8, luck < 0.7, n_boot=400, seed=trial)
        inside += interval.low <= 0.1 <= interval.high
    assert 0.92 <= inside / trials <= 0.985


def test_paired_is_tighter_than_unpaired():
    luck = np.random.default_rng(5).random(500)
    a, b = (luck < 0.8).astype(float), (luck < 0.7).astype(float)
    paired = paired_difference(a, b)
    shuffled = paired_difference(a, np.random.default_rng(6).permutation(b))
    assert paired.mean == pytest.approx(a.mean() - b.mean())
    assert width(paired) < 0.7 * width(shuffled)


def test_pairing_seeds_removes_common_training_noise():
    rng = np.random.default_rng(7)
    skill = rng.uniform(0.4, 0.9, (8, 1))
    luck = rng.random((8, 300))
    a, b = (luck < skill + 0.05).astype(float), (luck < skill).astype(float)
    assert width(paired_difference(a, b, pair_seeds=True)) < 0.5 * width(paired_difference(a, b))


def test_equal_systems_differ_by_exactly_zero():
    correct = {"video_aligned": flips(np.random.default_rng(8), 0.6, 50), "audio_aligned": np.ones(40)}
    assert paired_difference(correct, correct, gap_statistic) == (0.0, 0.0, 0.0)


def test_composite_statistics():
    rng = np.random.default_rng(9)
    correct = {"video_aligned": flips(rng, 0.3, (3, 400)), "audio_aligned": flips(rng, 0.9, (3, 300))}
    va, aa = correct["video_aligned"].mean(axis=1), correct["audio_aligned"].mean(axis=1)
    mean = bootstrap_interval(correct, conflict_mean_statistic)
    gap = bootstrap_interval(correct, gap_statistic)
    assert mean.mean == pytest.approx(((va + aa) / 2).mean())
    assert gap.mean == pytest.approx(np.abs(va - aa).mean())
    assert mean.low < mean.mean < mean.high
    assert gap.low < gap.mean < gap.high
    # The two subsets are separate samples: their variances add.
    single = [bootstrap_interval({"x": values[:1]}) for values in correct.values()]
    one_run = bootstrap_interval({name: values[:1] for name, values in correct.items()}, conflict_mean_statistic)
    assert width(one_run) == pytest.approx(np.hypot(width(single[0]), width(single[1])) / 2, rel=0.1)


def test_bases_are_fixed_and_weigh_equally():
    rng = np.random.default_rng(10)
    bases = {"weak": flips(rng, 0.2, (3, 2000)), "strong": flips(rng, 0.95, (1, 500))}
    interval = nested_bootstrap(bases)
    assert interval.mean == pytest.approx((bases["weak"].mean() + bases["strong"].mean()) / 2)
    assert width(interval) < 0.06  # resampling the bases would give about 0.75


def test_shared_clips_widen_the_interval():
    correct = flips(np.random.default_rng(11), 0.7, (1, 400))
    bases = {name: correct for name in "abcd"}
    one = bootstrap_interval(correct, n_boot=4000)
    assert width(nested_bootstrap(bases, shared_clips=True, n_boot=4000)) == pytest.approx(width(one), rel=0.05)
    assert width(nested_bootstrap(bases, n_boot=4000)) == pytest.approx(width(one) / 2, rel=0.1)


@pytest.mark.parametrize("shared", [False, True])
def test_nested_paired_difference_keeps_each_base_with_its_partner(shared):
    rng = np.random.default_rng(12)
    luck = {base: rng.random((2, 300)) for base in ("x", "y", "z")}
    shift = {"x": 0.0, "y": 0.1, "z": 0.2}
    a = {base: (values < 0.5 + shift[base]).astype(float) for base, values in luck.items()}
    b = {base: (values < 0.5).astype(float) for base, values in luck.items()}
    interval = nested_paired_difference(a, b, pair_seeds=True, shared_clips=shared)
    assert interval.mean == pytest.approx(np.mean([a[base].mean() - b[base].mean() for base in luck]))
    # Base x is unchanged; paired with a wrong partner its noise would blow the interval up.
    assert width(interval) < 0.06


def literal_replicates(systems, n_boot, seed):
    """The definition for several systems: clips drawn once for all of them, seeds within each system and base."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n_boot):
        subsets = next(iter(next(iter(systems.values())).values()))
        clips = {subset: rng.integers(0, array.shape[1], array.shape[1]) for subset, array in subsets.items()}
        gaps = {}
        for name, bases in systems.items():
            own = []
            for base in bases.values():
                seeds = rng.integers(0, len(base["video_aligned"]), len(base["video_aligned"]))
                runs = [{subset: base[subset][run, drawn].mean() for subset, drawn in clips.items()} for run in seeds]
                own.append(np.mean([abs(run["video_aligned"] - run["audio_aligned"]) for run in runs]))
            gaps[name] = np.mean(own)
        values.append(gaps)
    return values


def test_systems_under_one_resampling_agree_with_the_literal_loop():
    rng = np.random.default_rng(16)
    luck = {subset: rng.random((1, 80)) for subset in ("video_aligned", "audio_aligned")}
    skill = itertools.count()
    systems = {
        name: {
            base: {
                "video_aligned": (luck["video_aligned"] + rng.normal(0, 0.2, (seeds, 80)) < 0.3).astype(float),
                "audio_aligned": (luck["audio_aligned"] < 0.6 + 0.05 * next(skill)).repeat(seeds, 0).astype(float),
            }
            for base, seeds in bases.items()
        }
        for name, bases in {"a": {"x": 3, "y": 1}, "b": {"x": 2, "y": 2}}.items()
    }
    both = ("video_aligned", "audio_aligned")
    drawn = Resampled(systems, n_boot=6000)
    literal = literal_replicates(systems, 6000, seed=1)
    for name in systems:
        expected = np.quantile([gaps[name] for gaps in literal], [0.025, 0.975])
        assert drawn.interval(name, both, gap_statistic)[1:] == pytest.approx(expected, abs=0.01)
    expected = np.quantile([gaps["a"] - gaps["b"] for gaps in literal], [0.025, 0.975])
    interval, _ = drawn.difference("a", "b", both, gap_statistic)
    assert interval[1:] == pytest.approx(expected, abs=0.01)


def hits(seed, seeds, clips=150, accuracy=0.6):
    return (np.random.default_rng(seed).random((seeds, clips)) < accuracy).astype(float)


def test_resampling_together_gives_the_intervals_of_the_bootstrap_room():
    a = {
        "x": {"video_aligned": hits(1, 3), "audio_aligned": hits(2, 3)},
        "y": {"video_aligned": hits(3, 2), "audio_aligned": hits(4, 2)},
    }
    b = {
        "x": {"video_aligned": hits(5, 1), "audio_aligned": hits(6, 1)},
        "y": {"video_aligned": hits(7, 2), "audio_aligned": hits(8, 2)},
    }
    drawn = Resampled({"a": a, "b": b}, n_boot=20_000)
    both = ("video_aligned", "audio_aligned")
    for statistic in (gap_statistic, conflict_mean_statistic):
        expected = nested_paired_difference(a, b, statistic, shared_clips=True, n_boot=20_000)
        assert drawn.difference("a", "b", both, statistic)[0] == pytest.approx(expected, abs=0.004)
        expected = nested_bootstrap(a, statistic, shared_clips=True, n_boot=20_000)
        assert drawn.interval("a", both, statistic) == pytest.approx(expected, abs=0.004)
    single = {base: subsets["audio_aligned"] for base, subsets in a.items()}
    expected = nested_bootstrap(single, shared_clips=True, n_boot=20_000)
    assert drawn.interval("a", ("audio_aligned",)) == pytest.approx(expected, abs=0.004)


def test_a_difference_is_taken_on_shared_backbones_only():
    a, b = {"x": {"s": hits(1, 1)}, "y": {"s": np.ones((1, 150))}}, {"x": {"s": hits(1, 1)}}
    drawn = Resampled({"a": a, "b": b, "c": {"z": {"s": hits(2, 1)}}}, n_boot=200)
    assert drawn.difference("a", "b", ("s",)) == ((0.0, 0.0, 0.0), 1.0)
    assert drawn.difference("a", "c", ("s",)) is None
    with pytest.raises(ValueError, match="at least 1"):
        Resampled({"a": a}, n_boot=0)


def test_under_the_null_the_bootstrap_rejects_about_one_in_twenty():
    rejected = 0
    for trial in range(200):
        runs = {name: {"x": {"s": hits(10 * trial + i, 1, 120)}} for i, name in enumerate("ab")}
        rejected += Resampled(runs, n_boot=400, seed=trial).difference("a", "b", ("s",))[1] < 0.05
    assert 2 <= rejected <= 22  # 10 expected; a binomial leaves this range once in a thousand times


def test_deterministic_and_seeded():
    correct = flips(np.random.default_rng(13), 0.6, (3, 100))
    assert bootstrap_interval(correct, seed=1) == bootstrap_interval(correct, seed=1)
    # Accuracies are multiples of 1 / 300 and intervals of different seeds may coincide: few replicates tell them apart.
    assert bootstrap_interval(correct, n_boot=20, seed=1) != bootstrap_interval(correct, n_boot=20, seed=2)


def test_runs_are_scored_as_they_always_were():
    """To the last bit: these numbers are in the ``metrics.json`` of runs that others may score again."""
    rng = np.random.default_rng(15)
    a, b = ({"video_aligned": flips(rng, p, (3, 90)), "audio_aligned": flips(rng, 0.8, (3, 70))} for p in (0.5, 0.4))
    assert [
        bootstrap_interval(a["video_aligned"], seed=3),
        bootstrap_interval(a, gap_statistic),
        paired_difference(a, b, conflict_mean_statistic),
        paired_difference(a["audio_aligned"], b["audio_aligned"][:2], seed=4),
        paired_difference(a, b, gap_statistic, pair_seeds=True),
    ] == [
        Interval(0.4703703703703704, 0.36666666666666664, 0.5666666666666667),
        Interval(0.3724867724867725, 0.24603174603174605, 0.4883730158730158),
        Interval(0.02830687830687828, -0.060052910052910136, 0.1190608465608465),
        Interval(0.02857142857142858, -0.080952380952381, 0.1428571428571428),
        Interval(-0.04708994708994707, -0.19207671957671954, 0.10320105820105802),
    ]


def test_three_thousand_clips_in_a_second():
    correct = flips(np.random.default_rng(14), 0.6, (3, 3000))
    fastest = float("inf")
    for _ in range(2):  # the machine may be busy
        start = time.perf_counter()
        bootstrap_interval(correct, n_boot=2000)
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([]), "not empty"),
        (lambda: bootstrap_interval([1.0, np.nan]), "count an unparsed answer as 0"),
        (lambda: bootstrap_interval({"a": [1.0], "b": [0.0]}), "need a statistic"),
        (lambda: bootstrap_interval({"a": np.ones((2, 3)), "b": np.ones((3, 3))}, gap_statistic), "same seeds"),
        (lambda: paired_difference(np.ones(3), np.ones(4)), "same subsets and clips"),
        (lambda: paired_difference(np.ones((2, 3)), np.ones((3, 3)), pair_seeds=True), "as many seeds"),
        (lambda: nested_paired_difference({"a": [1.0]}, {"b": [1.0]}), "same bases"),
        (lambda: bootstrap_interval([1.0], level=95), "between 0 and 1"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_drawn_sums_draw_clips_or_whole_groups():
    columns = np.array([[1.0, 0.0], [2.0, 1.0], [4.0, 0.0], [8.0, 1.0]])
    drawn = drawn_sums(columns, n_boot=400, seed=1)
    assert drawn.shape == (400, 2) and drawn[:, 0].min() >= 4 and drawn[:, 0].max() <= 32
    assert drawn.mean(axis=0) == pytest.approx(columns.sum(axis=0), rel=0.1)
    grouped = drawn_sums(columns, ["b", "a", "b", "a"], n_boot=400, seed=1)
    assert set(grouped[:, 0]) == {10.0, 15.0, 20.0}, "two draws of the groups with sums 5 and 10"
    assert set(grouped[:, 1]) == {0.0, 2.0, 4.0}
    assert (grouped == drawn_sums(columns, ["b", "a", "b", "a"], n_boot=400, seed=1)).all()
    with pytest.raises(ValueError, match="n_boot=0"):
        drawn_sums(columns, n_boot=0)
