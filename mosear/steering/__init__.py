"""Attention steering at inference: one session, several policies.

from mosear.steering import AttentionReallocation, steer

with steer(backbone, AttentionReallocation(threshold=0.6, portion=0.5)) as session:
    backbone.model.generate(**batch)
session.stats
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosear.steering.policies.base import Policy
    from mosear.steering.policies.chase import Chase
    from mosear.steering.policies.detection import Decision, Detection
    from mosear.steering.policies.reallocation import AttentionReallocation
    from mosear.steering.policies.reliability import Reliability, ReliabilityEstimate
    from mosear.steering.policies.sequence import Policies
    from mosear.steering.session import SteeringSession, steer
    from mosear.steering.stats import SequenceRecord, SteeringStats

__all__ = [
    "AttentionReallocation",
    "Chase",
    "Decision",
    "Detection",
    "Policies",
    "Policy",
    "Reliability",
    "ReliabilityEstimate",
    "SequenceRecord",
    "SteeringSession",
    "SteeringStats",
    "steer",
]

_HOMES = {
    "AttentionReallocation": "policies.reallocation",
    "Chase": "policies.chase",
    "Decision": "policies.detection",
    "Detection": "policies.detection",
    "Policies": "policies.sequence",
    "Policy": "policies.base",
    "Reliability": "policies.reliability",
    "ReliabilityEstimate": "policies.reliability",
    "SequenceRecord": "stats",
    "SteeringSession": "session",
    "SteeringStats": "stats",
    "steer": "session",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
