"""Score predictions of another system."""

from mosear.evaluation.import_predictions import main

__all__ = ["main"]
