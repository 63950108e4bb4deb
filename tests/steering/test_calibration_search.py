"""Calibration without a model: what is fitted, what is tried, and what is chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mosear.evaluation.bootstrap import paired_difference
from mosear.roles import TokenRole
from mosear.steering import AttentionReallocation, Chase, Policies, Policy, Reliability
from mosear.steering.calibration.fitting import direction_accuracy, fit_reliability, usable
from mosear.steering.calibration.policy_search import join
from mosear.steering.calibration.search import Board, Search, Trial, check_subsets
from mosear.steering.calibration.searches.ar import ReallocationSearch, search_reallocation
from mosear.steering.calibration.searches.chase import ChaseSearch, search_chase, search_heads

AUDIO, VISUAL = int(TokenRole.AUDIO), int(TokenRole.VISUAL)
SUBSETS = ["consistent"] * 4 + ["video_aligned"] * 4 + ["audio_aligned"] * 4
RNG = np.random.default_rng(0)


def policy(number: int) -> Policy:
    return AttentionReallocation(portion=number / 100)


def answers(pattern: str, *, sure: float = 0.6) -> np.ndarray:
    """``[N, 2]`` log-probabilities that are right (label 0) where the pattern says 1."""
    right = np.array([letter == "1" for letter in pattern.replace(" ", "")])
    return np.log(np.where(right[:, None], [sure, 1 - sure], [1 - sure, sure]))


def board(unsteered: str = "1110 0000 1111", objective: str = "mean") -> Board:
    return Board(SUBSETS, [0] * 12, answers(unsteered), objective)  # type: ignore[arg-type]


# -- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_counted_literally() -> None:
    trial = board().trial("s", policy(1), answers("1111 1100 1110", sure=0.9))
    assert trial.accuracy == {"audio_aligned": 0.75, "consistent": 1.0, "video_aligned": 0.5}
    assert trial.objective == pytest.approx((1 + 0.5 + 0.75) / 3)
    same = [0.3] * 8  # |0.9 - 0.6|; the four answers that changed sides moved by 0.5
    assert trial.change == pytest.approx((sum(same) + 4 * 0.5) / 12)
    assert board(objective="conflict").trial("s", policy(1), answers("0000 1100 1110")).objective == 0.625
    assert board().unsteered.change == 0


def test_as_good_means_within_one_standard_error_of_the_paired_bootstrap() -> None:
    sizes = {"consistent": 120, "video_aligned": 60, "audio_aligned": 90}
    names = [name for name, count in sizes.items() for _ in range(count)]
    rows = [
        np.log([[0.9, 0.1], [0.1, 0.9]])[(RNG.random(270) < rate).astype(int)] for rate in RNG.uniform(0.1, 0.3, 24)
    ]
    large = Board(names, [0] * len(names), rows[0])
    trials = [large.trial("s", policy(n), own) for n, own in enumerate(rows)]
    compared = 0
    for best, other in itertools.pairwise(trials):
        margins = []
        for parts in (sizes, *([name] for name in sizes)):
            pair = [{n: t.correct[large.subsets == n].astype(float) for n in parts} for t in (best, other)]
            found = paired_difference(*pair, lambda m: sum(m.values()) / len(m), n_boot=4000, level=0.6827)  # type: ignore
            margins.append((found.high - found.low) / 2 - found.mean)
        if min(map(abs, margins)) > 0.005:  # the bootstrap has an error of its own
            assert large.as_good(other, best) is (min(margins) > 0)
            compared += 1
    assert compared > 8
    assert large.as_good(trials[0], trials[0])


@pytest.mark.parametrize(
    ("names", "objective", "message"),
    [
        (["consistent"] * 2, "mean", "at least one other subset"),
        (["video_aligned", "audio_aligned"], "mean", "found: audio_aligned, video_aligned"),
        ([], "mean", "found: no clips at all"),
        (["consistent", "video_aligned"], "conflict", "no clip is audio_aligned"),
    ],
)
def test_missing_subsets_are_explained(names: list[str], objective: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_subsets(names, objective)  # type: ignore[arg-type]


# -- the choice -------------------------------------------------------------------------------------------------------


def test_what_loses_consistent_clips_is_never_chosen() -> None:
    own = board()
    harmful = own.trial("s", policy(1), answers("1100 1111 1111"))
    modest = own.trial("s", policy(2), answers("1110 1111 1111"))
    assert harmful.objective < modest.objective
    better = own.trial("s", policy(3), answers("0111 1111 1111"))
    assert own.choose([harmful]) is own.unsteered
    assert own.choose([harmful, modest]) is modest
    assert own.choose([better]) is better, "three of four again: which ones does not matter"


def test_no_steering_is_chosen_when_everything_harms() -> None:
    own = board()
    worse = [own.trial("s", policy(n), answers("1110 0000 " + "0" * n + "1" * (4 - n))) for n in (1, 2, 3)]
    assert own.choose(worse) is own.unsteered
    assert own.choose([]) is own.unsteered


def test_the_weakest_of_those_as_good_as_the_best_is_chosen() -> None:
    own = board("1110 0000 1110")
    best = own.trial("s", policy(1), answers("1111 1110 1110", sure=0.99))
    weaker = own.trial("s", policy(2), answers("1111 0011 1110", sure=0.61))
    far = own.trial("s", policy(3), answers("1110 1000 1111", sure=0.6))
    assert own.as_good(weaker, best) and weaker.objective < best.objective
    assert not own.as_good(far, best)
    assert own.choose([best, far]) is best
    for order in itertools.permutations([best, weaker, far]):
        assert own.choose(order) is weaker


def test_a_gain_that_may_be_chance_is_not_worth_steering() -> None:
    """Sure when the paired bootstrap's 95 % interval of the gain lies above 0, in the objective."""
    names = ["consistent"] * 120 + ["video_aligned"] * 60 + ["audio_aligned"] * 90
    right = RNG.random(270) < 0.7
    own = Board(names, [0] * 270, np.where(right[:, None], [-0.1, -2.0], [-2.0, -0.1]))
    compared = {True: 0, False: 0}
    for number, rate in enumerate(np.linspace(0, 0.4, 20), 1):
        changed = right ^ (RNG.random(270) < np.where(right, 0.1, 0.1 + rate))
        trial = own.trial("s", policy(number), np.where(changed[:, None], [-0.1, -2.0], [-2.0, -0.1]))
        pair = [{n: t.correct[own.subsets == n].astype(float) for n in own.weighted} for t in (trial, own.unsteered)]
        interval = paired_difference(*pair, lambda m: sum(m.values()) / len(m), n_boot=4000)  # type: ignore
        if abs(interval.low) > 0.004:  # the bootstrap has an error of its own
            assert own.proven(trial) is (interval.low > 0)
            compared[interval.low > 0] += 1
            if interval.low < 0:
                assert own.choose([trial]) is own.unsteered
    assert min(compared.values()) > 3


def test_subsets_are_not_traded_against_each_other() -> None:
    names = ["consistent"] * 10 + ["video_aligned"] * 100 + ["audio_aligned"] * 100
    own = Board(names, [0] * 210, answers("1" * 10 + "1" * 30 + "0" * 70 + "1" * 100))
    even = own.trial("s", policy(1), answers("1" * 10 + "1" * 80 + "0" * 20 + "1" * 80 + "0" * 20, sure=0.99))
    biased = own.trial("s", policy(2), answers("1" * 10 + "1" * 62 + "0" * 38 + "1" * 97 + "0" * 3))
    assert 0 < even.objective - biased.objective < 0.01 and biased.change < even.change
    assert not own.as_good(biased, even)
    assert own.choose([even, biased]) is even


def test_the_order_of_the_clips_changes_nothing() -> None:
    trials = [answers("".join(RNG.choice(["0", "1"], 12))) for _ in range(20)]
    start = answers("1110 0000 1111")
    order = RNG.permutation(12)
    straight = Board(SUBSETS, [0] * 12, start)
    shuffled = Board([SUBSETS[i] for i in order], [0] * 12, start[order])
    chosen = [
        own.choose([own.trial("s", policy(n), rows[index]) for n, rows in enumerate(trials, 1)])
        for own, index in ((straight, np.arange(12)), (shuffled, order))
    ]
    assert chosen[0].policy == chosen[1].policy
    assert chosen[0].accuracy == chosen[1].accuracy


# -- the search -------------------------------------------------------------------------------------------------------


class Landscape:
    """A made-up model: the closer a policy is to a hidden best one, the more clips are right."""

    def __init__(self, distance: object) -> None:
        self.distance, self.asked = distance, []  # type: ignore[var-annotated]

    def __call__(self, policy: Policy) -> np.ndarray:
        self.asked.append(policy)
        right = max(0, 8 - round(self.distance(policy)))  # type: ignore[operator]
        return answers("1110" + "1" * right + "0" * (8 - right))


def search(distance: object, limit: int | None = None) -> tuple[Search, Landscape]:
    model = Landscape(distance)
    own = Board(SUBSETS, [0] * 12, answers("1110 0000 0000"))
    return Search(own, model, limit), model


def test_nothing_is_tried_twice_and_limits_hold() -> None:
    own, model = search(lambda p: 0)
    stages: list[str] = []
    own.track = lambda policies, stage: [stages.append(stage), *policies][1:]  # type: ignore[func-returns-value]
    own.run("first", [policy(1), policy(2), policy(1)])
    own.run("second", [policy(2), policy(3)])
    own.run("third", [policy(3)])
    assert model.asked == [policy(1), policy(2), policy(3)]
    assert stages == ["first", "second"], "a stage without anything new shows no progress"
    own.limit = 4
    own.run("fourth", [policy(4), policy(5)])
    assert model.asked[-1] == policy(4) and len(own.trials) == 4


def test_reallocation_finds_a_hidden_best() -> None:
    def distance(p: AttentionReallocation) -> float:
        wrong = 2 * (p.criterion != "density") + (p.distribution != "uniform")
        return wrong + 10 * abs(p.threshold - 0.65) + 10 * abs(p.portion - 0.35)

    own, model = search(distance)
    best = search_reallocation(own)
    assert best.policy == AttentionReallocation(0.65, 0.35, "density", "uniform") or best.objective == 11 / 12
    assert best.objective == max(trial.objective for trial in own.trials)
    assert len(model.asked) < 90


def chase_distance(p: Chase) -> float:
    estimate = p.reliability
    assert isinstance(estimate, Reliability)
    return (
        (p.soft is False)
        + 4 * abs(p.conflict_threshold - 0.4)
        + abs(math.log2((p.suppress + 0.1) / 16.1))
        + (estimate.visual_prior - estimate.audio_prior < 0.5)
        + (p.heads is None or len(p.heads) > 2)
    )


def test_chase_and_heads_find_a_hidden_best() -> None:
    own, model = search(chase_distance)
    estimates = [Reliability(), Reliability(transcript_weight=1.0)]
    best = search_chase(own, Chase(), estimates, lean=True)
    ranked = [(layer, head) for layer in (1, 0) for head in range(4)]
    best = search_heads(own, best, ranked)
    chosen = best.policy
    assert isinstance(chosen, Chase) and chosen.heads is not None
    assert chosen.soft and chosen.conflict_threshold == pytest.approx(0.4, abs=0.11)
    assert chosen.heads == ((1, 0), (1, 1)), "the two that rank first"
    assert best.objective == max(trial.objective for trial in own.trials)
    assert len(set(model.asked)) == len(model.asked)


def test_fitted_estimates_are_not_tilted() -> None:
    own, _ = search(chase_distance)
    fitted = Reliability(visual_prior=0.2, audio_prior=-0.2)
    search_chase(own, Chase(reliability=fitted), [fitted, Reliability()])
    assert {trial.policy.reliability for trial in own.trials} == {fitted, Reliability()}  # type: ignore[union-attr]


def test_both_keeps_what_each_has_found() -> None:
    own, _ = search(lambda p: 3.0)
    first = own.run("ar", [AttentionReallocation(portion=0.4)])
    second = own.run("chase", [Chase(strength=3.0)])
    searches = ReallocationSearch(None), ChaseSearch(None)  # type: ignore[arg-type]
    searches[1].reliabilities = [Reliability()]
    join(own, *searches, (first, second))
    joined = [trial.policy for trial in own.trials if isinstance(trial.policy, Policies)]
    assert {step.portion for own in joined for step in own.steps if isinstance(step, AttentionReallocation)} == {
        0.1, 0.2, 0.3, 0.4,
    }  # fmt: skip
    assert all(isinstance(own.steps[1], Chase) for own in joined)


def test_promise_counts_lost_consistent_clips() -> None:
    own = board()
    lossy = own.trial("s", policy(1), answers("0000 1111 1111"))
    safe = own.trial("s", policy(2), answers("1110 1100 1111"))
    assert own.promise(lossy) == pytest.approx(lossy.objective - 0.75)
    assert own.promise(safe) == safe.objective


# -- direction --------------------------------------------------------------------------------------------------------


def made_readings(count: int, seed: int, *, transcripts: float = 0.7) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Readings of which the right one is a little surer, and the transcript leans to it; the voice overstates."""
    generator = torch.Generator().manual_seed(seed)
    visual = torch.rand(count, generator=generator) < 0.3
    logits = {name: torch.randn(count, 4, generator=generator) for name in ("audio", "visual", "text")}
    rows = torch.arange(count)
    logits["audio"][rows, 0] += torch.where(visual, 0.5, 2.0)
    logits["visual"][rows, 1] += torch.where(visual, 2.0, 0.5)
    logits["audio"] *= 2
    logits["text"][rows, torch.where(visual, 1, 0)] += 1.0
    readings = {name: value.softmax(-1) for name, value in logits.items()}
    readings["text"][torch.rand(count, generator=generator) > transcripts] = float("nan")
    return readings, torch.where(visual, VISUAL, AUDIO)


def literal_loss(theta: Iterable[float], readings: dict[str, torch.Tensor], directions: torch.Tensor) -> float:
    """The formula of :func:`fit_reliability`, clip by clip."""
    audio, visual, prior, weight = theta
    counts = {AUDIO: int((directions == AUDIO).sum()), VISUAL: int((directions == VISUAL).sum())}
    total = 0.0
    for i, direction in enumerate(directions.tolist()):
        scores = {}
        for name, temperature in (("audio", math.exp(audio)), ("visual", math.exp(visual))):
            powers = [float(p) ** (1 / temperature) for p in readings[name][i].double()]
            own = [p / sum(powers) for p in powers]
            scores[name] = math.log(max(own) / (sum(own) - max(own)))
            text = readings["text"][i].double().tolist()
            if not math.isnan(text[0]):
                scores[name] += weight * math.log(sum(p * q for p, q in zip(own, text, strict=True)))
        sign = 1 if direction == VISUAL else -1
        total += math.log1p(math.exp(-sign * (scores["visual"] - scores["audio"] + prior))) / (2 * counts[direction])
    return total + 0.01 / 2 * sum(value**2 for value in (audio, visual, prior, weight))


@pytest.mark.parametrize("transcript", [True, False])
def test_fit_equals_a_literal_minimisation(transcript: bool) -> None:
    readings, directions = made_readings(80, seed=0)

    def loss(theta: np.ndarray) -> float:
        return literal_loss([*theta[:3], theta[3] if transcript else 0.0], readings, directions)

    bounds = [(None, None)] * 3 + [(0, None)]
    reference = minimize(loss, np.zeros(4), method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-7})
    found = fit_reliability(readings, directions, transcript=transcript)
    fitted = [
        math.log(found.audio_temperature),
        math.log(found.visual_temperature),
        found.visual_prior - found.audio_prior,
        found.transcript_weight,
    ]
    expected = reference.x if transcript else [*reference.x[:3], 0.0]
    assert fitted == pytest.approx(list(expected), abs=2e-3)
    assert found.audio_prior == -found.visual_prior


def test_fit_favours_no_direction_and_improves_on_new_clips() -> None:
    readings, directions = made_readings(600, seed=1)
    fitted = fit_reliability(readings, directions, transcript=True)
    assert fitted.audio_temperature > fitted.visual_temperature and fitted.transcript_weight > 0.2
    fresh, truth = made_readings(4000, seed=2)
    names = ["face" if direction == VISUAL else "voice" for direction in truth.tolist()]
    before = direction_accuracy(Reliability(), fresh, truth, names)
    after = direction_accuracy(fitted, fresh, truth, names)
    assert sum(after.values()) > sum(before.values()) + 0.05
    assert abs(after["face"] - after["voice"]) < 0.06, "though only 30 % of the clips follow the face"


def test_fit_ignores_the_order_and_what_it_cannot_use() -> None:
    readings, directions = made_readings(60, seed=3)
    fitted = fit_reliability(readings, directions, transcript=True)
    order = torch.randperm(60)
    shuffled = fit_reliability({n: r[order] for n, r in readings.items()}, directions[order], transcript=True)
    extended = {n: torch.cat([r, torch.full((2, 4), float("nan")), r[:1]]) for n, r in readings.items()}
    padded = fit_reliability(extended, torch.cat([directions, torch.tensor([AUDIO, VISUAL, -1])]), transcript=True)
    for other in (shuffled, padded):
        assert asdict(other) | {"confidence": 0} == pytest.approx(asdict(fitted) | {"confidence": 0}, rel=1e-4)
    assert int(usable(extended, torch.cat([directions, torch.tensor([AUDIO, VISUAL, -1])])).sum()) == 60


def test_fit_leaves_a_misleading_transcript_out() -> None:
    readings, directions = made_readings(200, seed=4, transcripts=1.0)
    readings["text"] = readings["text"][:, [1, 0, 2, 3]]
    fitted = fit_reliability(readings, directions, transcript=True)
    assert fitted == fit_reliability(readings, directions)
    assert fitted.transcript_weight == 0 and fitted.modalities == ("audio", "visual")


def test_fit_needs_both_directions() -> None:
    readings, directions = made_readings(10, seed=5)
    with pytest.raises(ValueError, match=r"10 follow the voice and 0 the face"):
        fit_reliability(readings, torch.full_like(directions, AUDIO))


def test_saturated_readings_give_finite_estimates() -> None:
    readings, directions = made_readings(40, seed=6)
    sure = torch.nn.functional.one_hot(torch.where(directions == VISUAL, 1, 0), 4).float()
    readings["visual"][directions == VISUAL] = sure[directions == VISUAL]
    fitted = fit_reliability(readings, directions, transcript=True)
    assert all(math.isfinite(value) for value in vars(fitted).values() if not isinstance(value, str))


def test_a_trial_holds_what_was_asked() -> None:
    own = board()
    trial = own.scored("control", None, np.ones(12, dtype=bool), 0.0)
    assert isinstance(trial, Trial) and trial.objective == 1 and trial.policy is None
