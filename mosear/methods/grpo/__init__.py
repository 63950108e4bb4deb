"""Reinforcement learning with verifiable rewards: ``python train.py method=grpo``."""

from mosear.methods.grpo.method import GRPO

__all__ = ["GRPO"]
