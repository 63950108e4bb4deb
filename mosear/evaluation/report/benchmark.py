"""What the report shows of ``benchmark.metrics``: one table per metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mosear.evaluation.benchmark_metrics import number_text


def benchmark_section(summaries: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The tables, empty without such metrics. A number that a part does not have is a dash.

    Args:
        summaries: ``{system: summary}``; ``benchmark_scores(...)`` may stand in it under ``benchmark_metrics``.
        names: the systems in the order of the page.
    """
    found = {name: summaries[name]["benchmark_metrics"] for name in names if "benchmark_metrics" in summaries[name]}
    tables = []
    for metric in dict.fromkeys(metric for scores in found.values() for metric in scores):
        own = {name: scores[metric] for name, scores in found.items() if metric in scores}
        columns = dict.fromkeys(key for parts in own.values() for numbers in parts.values() for key in numbers)
        groups = []
        for part in dict.fromkeys(part for parts in own.values() for part in parts):
            rows = [
                {"name": name, "cells": [number_text(parts[part].get(column)) for column in columns]}
                for name, parts in own.items()
                if part in parts
            ]
            groups.append({"part": part, "rows": rows})
        tables.append({"metric": metric, "columns": list(columns), "groups": groups})
    return tables
