"""Conflict mixing: ``python train.py method=conflict_mixing``; docs/conflict_mixing.md."""

from mosear.methods.conflict_mixing.method import ConflictMixing

__all__ = ["ConflictMixing"]
