"""Write one page that compares runs."""

from mosear.evaluation.compare.__main__ import main

__all__ = ["main"]
