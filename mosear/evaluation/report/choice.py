"""Which clips a run report shows as examples, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence

from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.report.text import in_words
from mosear.evaluation.summary import by_subset


def choose_examples(rows: Sequence[PredictionRow], count: int) -> list[str]:
    """Ids of at most ``count`` clips: of every subset half wrong answers (rounded up), half right ones, by id.

    Args:
        rows: of the system that the report is about.
        count: how many clips; the subsets share them equally.
    """
    groups = by_subset(rows)
    chosen = []
    for own in groups.values():
        wrong_first = sorted(own, key=lambda row: (row.correct, row.id))
        share = max(1, count // len(groups))
        chosen += [*wrong_first[: (share + 1) // 2], *wrong_first[::-1][: share // 2]]
    return [row.id for row in chosen[:count]]


def reason(system: str) -> str:
    """Why the clips of :func:`choose_examples` are shown.

    Args:
        system: name of the system that the report is about.
    """
    return (
        f"A fixed rule chose these clips: of each subset, half (rounded up) are clips that {in_words(system)} answered "
        "wrong and the rest clips that it answered right, as far as there are any, in order of id."
    )
