"""Write the manifest of a published data set."""

from mosear.data.prepare import main

__all__ = ["main"]
