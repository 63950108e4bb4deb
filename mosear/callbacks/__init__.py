"""Lightning callbacks."""

from mosear.callbacks.adapter_checkpoint import AdapterCheckpoint
from mosear.callbacks.gate_telemetry import GateTelemetry
from mosear.callbacks.quarantine import QuarantineLog
from mosear.callbacks.steering import SteeringCallback
from mosear.callbacks.throughput import Throughput

__all__ = ["AdapterCheckpoint", "GateTelemetry", "QuarantineLog", "SteeringCallback", "Throughput"]
