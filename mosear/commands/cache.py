"""Encode the clips of manifests ahead of a run."""

from mosear.data.cache.__main__ import main

__all__ = ["main"]
