"""The table of ``--profile``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def profile_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: each part's share of a step's time, largest first (in the first size), and the time itself.

    Args:
        found: by size, what :class:`benchmarks.peers.inside.mosear_profile.Profile` or
            :class:`benchmarks.peers.inside.mosear_operators.Operators` wrote.
    """
    first = next(iter(found.values()))["seconds"]
    parts = sorted({part for own in found.values() for part in own["seconds"]}, key=lambda part: -first.get(part, 0.0))
    lines = ["| part | " + " | ".join(found) + " |", "|---|" + "---:|" * len(found)]
    for part in parts:
        shares = [own["seconds"].get(part, 0.0) / sum(own["seconds"].values()) for own in found.values()]
        lines.append(f"| {part} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
    totals = [sum(own["seconds"].values()) / own["steps"] for own in found.values()]
    clock = next(iter(found.values())).get("clock", "CPU")
    lines.append(f"| {clock} seconds per step | " + " | ".join(f"{total:.3f}" for total in totals) + " |")
    return "\n".join(lines)
