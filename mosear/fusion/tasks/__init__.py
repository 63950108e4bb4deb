"""What is predicted: one label, a set of labels, a score, or valence and arousal over time.

A task is one module here and one YAML in ``conf/task``.
"""

from mosear.fusion.tasks.base import Task

__all__ = ["Task"]
