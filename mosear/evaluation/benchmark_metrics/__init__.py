"""``benchmark.metrics``: what benchmarks publish, by name, from the predictions of one system.

Every metric gives ``{part: {number: value}}``. Parts are the test subsets, where there are several, and ``overall``,
all clips at once. The numbers are those of the pure functions in :mod:`mosear.evaluation.metrics`; the modules here
only say which columns of predictions and clips go into them. Each has a ``METRICS``, and all of them are found: a new
metric is a new module.

Sentiment without a regressor: ``benchmark.levels`` gives each label a score ``v``, and a clip's predicted score is::

    s = sum_c p_c v_c     p: the distribution over the labels, where labels were scored
    s = v_c               c: the label that was read from a generated answer

Rows that hold scores need no levels: their own scores are taken.

An answer that could not be read gets the end of the scale that is wrong under every definition of the metric; it is
neither left out nor taken for 0, and ``unparsed`` counts such answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from mosear.evaluation.benchmark_metrics.base import OVERALL, SUMMARY, Answers, Metric, Scores, wrong_levels
from mosear.evaluation.predictions import kind_of

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "METRICS",
    "OVERALL",
    "SUMMARY",
    "Answers",
    "Metric",
    "Scores",
    "benchmark_scores",
    "benchmark_table",
    "number_text",
    "wrong_levels",
]


def _found() -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for info in iter_modules(__path__):
        own = getattr(import_module(f"{__name__}.{info.name}"), "METRICS", {})
        if twice := sorted(metrics.keys() & own.keys()):
            raise ValueError(f"{__name__}.{info.name} has metrics of names that are taken: {', '.join(twice)}.")
        metrics |= own
    return metrics


METRICS: Mapping[str, Metric] = _found()
"""The names that ``benchmark.metrics`` accepts; docs/benchmarks.md says what each of them reports."""


def benchmark_scores(names: Sequence[str], answers: Answers) -> dict[str, Scores]:
    """``{metric: {part: {number: value}}}``, the content of ``benchmark_metrics`` in ``metrics.json``.

    Args:
        names: keys of :data:`METRICS`.
        answers: the predictions of one system with their clips.

    Raises:
        ValueError: for an unknown name, predictions of a kind that a metric does not read, missing levels, or clips
            that lack what a metric reads.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"unknown benchmark metrics {', '.join(unknown)}; there are {', '.join(METRICS)}.")
    found, kind = {}, kind_of(answers.rows)
    for name in names:
        if unfit := METRICS[name].unfit(kind):
            raise ValueError(f"{name}: {unfit}")
        if METRICS[name].needs_levels(kind) and (wrong := wrong_levels(answers.labels, answers.levels)):
            raise ValueError(f"{name}: {wrong}")
        try:
            found[name] = METRICS[name].score(answers)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def number_text(value: float | None) -> str:
    """A count as it is, a score with three digits, and a dash for what is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def benchmark_table(found: Mapping[str, Scores]) -> Table:
    """One row per metric and part, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="benchmark metrics")
    for heading in ("metric", "clips", "numbers"):
        table.add_column(heading)
    for name, parts in found.items():
        for part, numbers in parts.items():
            shown = "   ".join(f"{key} {number_text(value)}" for key, value in numbers.items())
            table.add_row(*map(Text, (name, part.replace("_", " "), shown)))
    return table
