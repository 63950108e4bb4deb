"""Steers evaluation: the session is installed while Lightning validates or tests, and only then."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer

from mosear.callbacks.base import RunCallback
from mosear.evaluation.report import Table
from mosear.methods.processes import gathered
from mosear.steering import Policy, SteeringSession
from mosear.steering.settings import policy_as_dict
from mosear.steering.telemetry import SteeredEvaluation, SteeringTelemetry


class SteeringCallback(RunCallback):
    """Installs a policy for validation and test of an ``OmniSystem``; training is never steered.

    The candidate labels are the system's own. The session is taken out at the end and after an exception.

    Args:
        policy: what to do.

    Attributes:
        telemetry: of the last test, over all processes.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.telemetry = SteeringTelemetry()
        self._session: SteeringSession | None = None
        self._steered: SteeredEvaluation | None = None

    def _install(self, module: Any, *, record: bool) -> None:
        self._session = SteeringSession(module.backbone, self.policy, module.trie, record=record).install()
        self._steered = module.answerer.steering = SteeredEvaluation(self._session)

    def _remove(self, module: Any) -> None:
        module.answerer.steering = self._steered = None
        if self._session is not None:
            self._session.remove()
            self._session = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install; statistics of a validation are not used."""
        self._install(pl_module, record=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove."""
        self._remove(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install."""
        self._install(pl_module, record=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove, and sum the telemetry over processes; each test replaces the last one's."""
        assert self._steered is not None
        own = self._steered.telemetry
        self._remove(pl_module)
        self.telemetry = SteeringTelemetry()
        for part in gathered([own]):
            self.telemetry.merge(part)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove."""
        self._remove(pl_module)

    def test_summary(self) -> dict[str, Any]:
        """The policy, and what it did to attention."""
        return {"steering_telemetry": {"policy": described(self.policy), **self.telemetry.summary()}}

    def test_tables(self) -> list[Table]:
        """One row per layer and head: attention mass before and after steering, and how often the head was flagged."""
        telemetry = self.telemetry.summary()
        if not telemetry:
            return []
        kinds = telemetry["modalities"]
        columns = ["layer", "head", *(f"{kind} {time}" for time in ("before", "after") for kind in kinds), "flagged"]
        rows = [
            [layer, head, *before, *after, flagged]
            for layer, heads in enumerate(
                zip(telemetry["before"], telemetry["after"], telemetry["flagged"], strict=True)
            )
            for head, (before, after, flagged) in enumerate(zip(*heads, strict=True))
        ]
        return [Table("attention", columns, rows)]


def described(policy: Policy) -> dict[str, Any] | str:
    """What to write about a policy; parts of a user's own need not be JSON."""
    try:
        return policy_as_dict(policy)
    except ValueError:
        return repr(policy)
