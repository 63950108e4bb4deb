"""Print one table over many runs, with intervals."""

from mosear.evaluation.aggregate import main

__all__ = ["main"]
