"""Calibration files: what is written is read again, and anything else is refused in words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mosear.steering import AttentionReallocation, Chase, Policies, Policy, Reliability
from mosear.steering.settings import SteeringSettings, build_policy, policy_as_dict

AR = AttentionReallocation(threshold=0.4, layers=(1, 2))
CHASE = Chase(strength=7.0, heads=((0, 1), (3, 2)), reliability=Reliability(audio_prior=-0.5))


@pytest.mark.parametrize("policy", [AR, CHASE, Policies((AR, CHASE)), Policies((CHASE, AR))])
def test_round_trip(policy: Policy, tmp_path: Path) -> None:
    settings = SteeringSettings(policy, "tiny-omni", "0f", {"conflict_mean": 0.9})
    settings.save(tmp_path / "s.json")
    assert SteeringSettings.load(tmp_path / "s.json", backbone="tiny-omni") == settings
    assert build_policy(json.loads(json.dumps(policy_as_dict(policy)))) == policy


GOOD: dict[str, Any] = {"policy": {"ar": {"portion": 0.2}}, "backbone": "b", "split_hash": "0f", "scores": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no calibration file: policy, backbone, split_hash, scores missing"),
        ({"policy": {"ar": {}}}, "no calibration file: backbone, split_hash, scores missing"),
        (GOOD | {"policy": {}}, "policy names none of ar, chase"),
        (GOOD | {"policy": {"magic": {}}}, "no policy 'magic'; there are ar, chase"),
        (GOOD | {"policy": {"ar": {"rho": 1}}}, "rho"),
        (GOOD | {"policy": {"ar": {"portion": 2}}}, "portion=2 must lie in [0, 1]"),
        (GOOD | {"policy": {"chase": {"reliability": {"trust": 1}}}}, "trust"),
        (GOOD | {"backbone": "c"}, "was calibrated on 'c', not on 'b'"),
    ],
)
def test_wrong_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        SteeringSettings.load(path, backbone="b")
    assert str(path) in str(error.value)


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json cannot be read \(No such file"):
        SteeringSettings.load(tmp_path / "none.json")


def test_changes_win_and_must_be_about_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(GOOD))
    changed = SteeringSettings.load(path, changes={"ar": {"threshold": 0.1}}).policy
    assert changed == AttentionReallocation(portion=0.2, threshold=0.1)
    with pytest.raises(ValueError, match="are about chase"):
        SteeringSettings.load(path, changes={"chase": {"strength": 1}})


def test_what_json_cannot_hold_is_refused() -> None:
    class Own(Reliability):
        """An estimate of a user's own."""

    for policy in (Chase(reliability=Own()), Policies((AR, AR))):
        with pytest.raises(ValueError, match="cannot be written as JSON"):
            policy_as_dict(policy)
