"""Answer for single clips."""

from mosear.predict import main

__all__ = ["main"]
