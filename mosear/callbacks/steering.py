"""Steers evaluation: the session is installed while Lightning validates, tests or predicts, and only then."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from mosear.evaluation.steering import SteeredEvaluation, SteeringTelemetry
from mosear.steering import Policy, SteeringSession
from mosear.training.module import gathered


class SteeringCallback(Callback):
    """Installs a policy for validation, test and prediction of an ``EmotionTuner``; training is never steered.

    The candidate labels are the tuner's own. The session is taken out at the end and after an exception.

    Args:
        policy: what to do.

    Attributes:
        telemetry: of the last test, over all processes.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.telemetry = SteeringTelemetry()
        self._session: SteeringSession | None = None

    def _install(self, module: Any, *, record: bool) -> None:
        self._session = SteeringSession(module.backbone, self.policy, module.trie, record=record).install()
        module.steered = SteeredEvaluation(self._session)

    def _remove(self, module: Any) -> None:
        module.steered = None
        if self._session is not None:
            self._session.remove()
            self._session = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install; nobody reads statistics of a validation."""
        self._install(pl_module, record=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove."""
        self._remove(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install."""
        self._install(pl_module, record=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove, and sum the telemetry over processes; each test replaces the last one's."""
        own: SteeringTelemetry = pl_module.steered.telemetry  # type: ignore[union-attr, assignment]
        self._remove(pl_module)
        self.telemetry = SteeringTelemetry()
        for part in gathered([own]):
            self.telemetry.merge(part)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install."""
        self._install(pl_module, record=False)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove."""
        self._remove(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove."""
        self._remove(pl_module)
