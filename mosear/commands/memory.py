"""Estimate the memory of a training run."""

from mosear.planning.memory import main

__all__ = ["main"]
