"""CHASE's decisions and edits on tensors alone, against their formulas."""

import math
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from mosear.inference.distributions import jensen_shannon
from mosear.roles import TokenRole
from mosear.steering import AttentionReallocation, Chase, Policies, Reliability, ReliabilityEstimate
from mosear.steering.policies.base import AttentionView
from mosear.steering.rows import Keys
from tests.helpers.eager_steering import add_to_logits, reallocate

AUDIO, VISUAL = int(TokenRole.AUDIO), int(TokenRole.VISUAL)
NAN = float("nan")


def reading(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def random_readings(batch: int = 8, labels: int = 6, sharpness: float = 2.0) -> dict[str, Tensor]:
    return {name: (sharpness * torch.randn(batch, labels)).softmax(-1) for name in ("audio", "visual", "text")}


# -- conflict ------------------------------------------------------------------------------------------------------


def test_jensen_shannon_in_single_precision() -> None:
    found = random_readings(50, sharpness=5.0)
    p, q = found["audio"], found["visual"]
    p[0], q[0] = torch.eye(6)[0], torch.eye(6)[1]
    p[1], q[1] = torch.eye(6)[2], torch.eye(6)[2]
    p[2] = NAN
    expected = jensenshannon(p.double().numpy(), q.double().numpy(), base=2, axis=1) ** 2
    assert np.isnan(expected[2]) and not np.isnan(np.delete(expected, 2)).any()
    np.testing.assert_allclose(jensen_shannon(p, q).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert jensen_shannon(p, q)[0] == 1 and jensen_shannon(p, q)[1] == 0


# -- reliability ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", ["log_odds", "entropy"])
def test_scores_by_hand(confidence: str) -> None:
    found = random_readings(4)
    estimate = Reliability(
        confidence=confidence,
        audio_temperature=2.0,
        visual_temperature=0.5,
        text_temperature=3.0,
        audio_prior=-0.4,
        visual_prior=0.2,
        transcript_weight=1.5,
    )
    found["text"][2] = NAN
    scores = estimate.scores(estimate.calibrated(found))
    for clip in range(4):
        calibrated = {}
        for name, temperature in (("audio", 2.0), ("visual", 0.5), ("text", 3.0)):
            powers = [float(p) ** (1 / temperature) for p in found[name][clip]]
            calibrated[name] = [power / sum(powers) for power in powers]
        for column, (name, prior) in enumerate((("audio", -0.4), ("visual", 0.2))):
            p = calibrated[name]
            if confidence == "log_odds":
                expected = math.log(max(p) / (1 - max(p)))
            else:
                expected = 1 + sum(x * math.log(x) for x in p) / math.log(6)
            expected += prior
            if clip != 2:
                expected += 1.5 * math.log(sum(x * y for x, y in zip(p, calibrated["text"], strict=True)))
            assert float(scores[clip, column]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_saturated_readings_keep_finite_scores() -> None:
    certain = {"audio": reading([1.0, 0.0, 0.0]), "visual": reading([0.0, 1.0, 0.0]), "text": reading([0.0, 0.0, 1.0])}
    for confidence in ("log_odds", "entropy"):
        estimate = Reliability(confidence=confidence, transcript_weight=1.0)
        assert estimate.scores(estimate.calibrated(certain)).isfinite().all()


def test_which_readings_are_needed() -> None:
    assert Reliability().modalities == ("audio", "visual")
    assert Reliability(transcript_weight=0.5).modalities == ("audio", "visual", "text")


# -- decisions -----------------------------------------------------------------------------------------------------


def test_the_more_reliable_modality_is_the_target() -> None:
    sure, unsure = [0.9, 0.05, 0.05], [0.2, 0.45, 0.35]
    decision = Chase(strength=4.0, suppress=1.0, conflict_threshold=0.2).decide(
        {
            "audio": reading(sure, unsure, sure, [NAN] * 3, sure),
            "visual": reading(unsure, sure, sure, sure, [NAN] * 3),
        }
    )
    conflict = float(jensenshannon(sure, unsure, base=2) ** 2)
    assert decision.target.tolist() == [AUDIO, VISUAL, -1, -1, -1]
    torch.testing.assert_close(decision.conflict, torch.tensor([conflict, conflict, 0.0, NAN, NAN]), equal_nan=True)
    high, low = 4 * conflict, -conflict
    expected = torch.tensor([[high, low], [low, high], [0, 0], [0, 0], [0, 0]])
    torch.testing.assert_close(decision.bonus, expected)
    assert decision.scores[3, 0].isnan() and decision.scores[4, 1].isnan()


def test_a_tie_goes_to_the_face() -> None:
    both = {"audio": reading([0.7, 0.2, 0.1]), "visual": reading([0.2, 0.1, 0.7])}
    assert Chase(conflict_threshold=0).decide(both).target.tolist() == [VISUAL]


def test_the_transcript_can_decide() -> None:
    found = {
        "audio": reading([0.5, 0.25, 0.25]),
        "visual": reading([0.25, 0.5, 0.25]),
        "text": reading([0.8, 0.1, 0.1]),
    }
    for weight, target in ((0.0, VISUAL), (1.0, AUDIO)):
        assert Chase(conflict_threshold=0, reliability={"transcript_weight": weight}).decide(found).target == target


def test_soft_strength_follows_the_margin() -> None:
    found = random_readings(200)
    hard = Chase(strength=3.0, suppress=2.0, conflict_threshold=0.1).decide(found)
    soft = Chase(strength=3.0, suppress=2.0, conflict_threshold=0.1, soft=True).decide(found)
    odds = (hard.scores[:, 0] - hard.scores[:, 1]).sigmoid()
    difference = (odds - (1 - odds)).abs()
    torch.testing.assert_close(soft.bonus, hard.bonus * difference[:, None], rtol=1e-4, atol=1e-5)
    assert soft.target.equal(hard.target)


@pytest.mark.parametrize("target", ["audio", "visual"])
def test_a_forced_target_still_needs_a_conflict(target: str) -> None:
    found = random_readings(50)
    decision = Chase(target=target, conflict_threshold=0.3, soft=True).decide(found)
    steered = decision.conflict >= 0.3
    assert 0 < steered.sum() < 50
    wanted = AUDIO if target == "audio" else VISUAL
    assert decision.target.tolist() == [wanted if yes else -1 for yes in steered]
    torch.testing.assert_close(decision.bonus.amax(1), 4 * decision.conflict * steered)


def test_the_oracle_takes_the_direction_it_is_given() -> None:
    found = random_readings(4)
    policy = Chase(target="oracle", conflict_threshold=0)
    directions = torch.tensor([VISUAL, AUDIO, -1, VISUAL])
    assert policy.decide(found, directions).target.equal(directions)
    assert (policy.decide(found, directions).bonus[2] == 0).all()
    with pytest.raises(ValueError, match=r"session.given\(directions"):
        policy.decide(found)


def test_another_estimate_can_be_plugged_in() -> None:
    class Pessimist:
        modalities = ("audio", "visual")

        def calibrated(self, readings):
            return {name: reading.flip(-1) for name, reading in readings.items()}

        def scores(self, readings):
            return -torch.stack([readings["audio"].amax(-1), readings["visual"].amax(-1)], dim=-1)

    assert isinstance(Pessimist(), ReliabilityEstimate)
    found = random_readings(20)
    decision = Chase(reliability=Pessimist(), conflict_threshold=0).decide(found)
    assert (decision.target == AUDIO).equal(found["audio"].amax(-1) < found["visual"].amax(-1))
    with pytest.raises(ValueError, match=r"reliability=.* must have modalities"):
        Chase(reliability=object())


# -- edits ---------------------------------------------------------------------------------------------------------

ROLES = torch.tensor([[0, 1, 1, 2, 2, 2, 0], [3, 2, 1, 1, 1, 2, 0], [0, 1, 1, 1, 1, 1, 0], [3, 3, 3, 3, 0, 0, 0]])


def probabilities_and_view(state: Tensor | None, layer: int = 0) -> tuple[Tensor, AttentionView]:
    logits = 2 * torch.randn(4, 3, 2, 7)
    probabilities = logits.masked_fill((ROLES == 3)[:, None, None], float("-inf")).softmax(-1)
    answer = torch.zeros(4, 2, dtype=torch.bool)
    return probabilities, AttentionView.of(probabilities, Keys.of(ROLES, 7), answer, layer=layer, state=state)


@pytest.mark.parametrize("size", [0.01, 3.0, 10.0, 60.0])
def test_an_edit_equals_adding_to_the_logits(size: float) -> None:
    bonus = size * torch.tensor([[1.0, -0.5], [-0.3, 1.0], [0.0, 0.0], [0.0, 0.0]])
    probabilities, view = probabilities_and_view(bonus)
    edited, touched = Chase().edit(probabilities, view)
    by_hand = add_to_logits(bonus)
    for sample, head, row in torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(2)).tolist():
        expected = by_hand(probabilities[sample, head, row], ROLES[sample], sample, 0, head, False)
        torch.testing.assert_close(edited[sample, head, row], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(edited.sum(-1), torch.ones(4, 3, 2))
    assert touched[:2].all() and not touched[2:].any()
    assert edited[2:].equal(probabilities[2:])


def test_chosen_heads_alone() -> None:
    policy = Chase(heads=[[1, 0], [1, 2], [3, 1]])
    assert [policy.acts_in(layer) for layer in range(4)] == [False, True, False, True]
    probabilities, view = probabilities_and_view(torch.full((4, 2), 2.0), layer=1)
    edited, touched = policy.edit(probabilities, view)
    assert touched.any(0).any(-1).tolist() == [True, False, True]
    assert edited[:, 1].equal(probabilities[:, 1])


def test_attention_that_has_nothing_else_is_left_alone() -> None:
    """All attention on what is pushed out of a float's range: no division by zero."""
    probabilities = torch.zeros(4, 3, 2, 7)
    probabilities[:, :, :, 5] = 1.0
    view = AttentionView.of(
        probabilities,
        Keys.of(ROLES, 7),
        torch.zeros(4, 2, dtype=torch.bool),
        layer=0,
        state=torch.tensor([[500.0, -500.0]]).expand(4, -1),
    )
    edited, _ = Chase().edit(probabilities, view)
    assert edited.isfinite().all()
    torch.testing.assert_close(edited.sum(-1), torch.ones(4, 3, 2))


def test_without_a_decision_nothing_happens() -> None:
    probabilities, view = probabilities_and_view(None)
    edited, touched = Chase().edit(probabilities, view)
    assert edited is probabilities and not touched.any()
    assert Chase().idle(None) and not Chase().idle(torch.zeros(4, 2))


def test_several_policies_act_in_turn() -> None:
    bonus = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0], [0.0, 0.0]])
    probabilities, view = probabilities_and_view(bonus)
    policy = Policies([AttentionReallocation(threshold=0.5, portion=0.4), Chase()])
    edited, touched = policy.edit(probabilities, view)
    first, second = reallocate(0.5, 0.4), add_to_logits(bonus)
    for sample, head, row in torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(2)).tolist():
        before = probabilities[sample, head, row]
        middle = first(before, ROLES[sample], sample, 0, head, False)
        expected = second(middle, ROLES[sample], sample, 0, head, False)
        torch.testing.assert_close(edited[sample, head, row], expected, rtol=1e-4, atol=1e-6)
    assert touched[:2].all()
    assert policy.acts_in(0) and not policy.idle(None)
    assert Policies([AttentionReallocation(portion=0), Chase()]).idle(None)


# -- settings ------------------------------------------------------------------------------------------------------


def test_settings_survive_a_calibration_file() -> None:
    policy = Chase(strength=7.5, heads=[(0, 1)], reliability=Reliability(audio_prior=0.3, confidence="entropy"))
    assert Chase(**asdict(policy)) == policy


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"detector": "ears", "target": "left", "readings": "none"}, ["'ears'", "'left'", "'none'"]),
        ({"conflict_threshold": 1.5, "strength": -1, "suppress": NAN}, ["1.5", "strength=-1", "suppress=nan"]),
        (
            {"heads": [3], "evidence_heads": []},
            ["heads=[3]", "[layer, head] pairs", "evidence_heads=[] must hold at least 1"],
        ),
        (
            {"reliability": {"confidence": "loud", "audio_temperature": 0, "transcript_weight": -1}},
            ["'loud'", "audio_temperature=0", "transcript_weight=-1"],
        ),
        ({"reliability": {"colour": 1}}, ["colour"]),
    ],
)
def test_all_mistakes_at_once(options: dict, words: list[str]) -> None:
    with pytest.raises(ValueError, match="Chase") as error:
        Chase(**options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_does_not_fit_a_model() -> None:
    policy = Policies([AttentionReallocation(layers=[7]), Chase(heads=[(0, 2), (9, 0)])])
    assert len(policy.problems(layers=4, heads=2)) == 3
    assert Chase(detector="heads").problems(layers=4, heads=2) == []
    assert Chase(detector="heads").evidence(4, 2) == ((0, 0), (0, 1), (1, 0), (1, 1))
    (late,) = Chase(detector="heads", evidence_heads=[(3, 0)]).problems(4, 2)
    assert "no layer is left" in late
    (early,) = Chase(detector="heads", heads=[(1, 0), (3, 0)]).problems(4, 2)
    assert "too late for layers 1" in early


def test_sequences_of_policies_are_checked() -> None:
    with pytest.raises(ValueError, match="Chase and Chase each decide about every clip"):
        Policies([Chase(), Policies([Chase()])])
    with pytest.raises(ValueError, match=r"policies=\[\] must hold at least 1"):
        Policies([])
    with pytest.raises(ValueError, match=r"policies=\['ar'\] must be a list of Policy"):
        Policies(["ar"])


def test_more_strength_moves_more_attention() -> None:
    masses = []
    probabilities, view = probabilities_and_view(torch.zeros(4, 2))
    for size in (0.0, 1.0, 2.0, 8.0):
        state = torch.tensor([[size, 0.0]]).expand(4, -1)
        edited, _ = Chase().edit(probabilities, AttentionView(0, view.keys, view.mass, view.answer, state))
        masses.append(float((edited[0] * view.keys.masks[0, :, 0]).sum()))
    assert all(low < high for low, high in pairwise(masses))
