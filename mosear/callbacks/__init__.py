"""Lightning callbacks."""

from mosear.callbacks.adapter_checkpoint import AdapterCheckpoint
from mosear.callbacks.base import RunCallback
from mosear.callbacks.checkpoint import ResumableCheckpoint
from mosear.callbacks.gate_telemetry import GateTelemetry
from mosear.callbacks.loss_guard import LossGuard
from mosear.callbacks.preemption import Preemption
from mosear.callbacks.quarantine import QuarantineLog
from mosear.callbacks.steered_evaluation import SteeringCallback
from mosear.callbacks.throughput import Throughput

__all__ = [
    "AdapterCheckpoint",
    "GateTelemetry",
    "LossGuard",
    "Preemption",
    "QuarantineLog",
    "ResumableCheckpoint",
    "RunCallback",
    "SteeringCallback",
    "Throughput",
]
