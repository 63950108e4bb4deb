"""From recorded runs to tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.peers.systems import PEERS, SYSTEMS

Run = Mapping[str, Any]
"""A recorder's JSON with ``size``, ``system``, ``round``, ``batch_size``, ``warmup`` and ``tree_mib``."""

BASE = "mosear"
CURVES = ("mosear", "mosear_cached", *PEERS)
"""Systems that train the same adapter from the same start."""

HEAD = (
    "| | system | samples/s | x faster peer | samples per CPU second | x faster peer | peak MiB | x smaller peer "
    "| training adds MiB |\n|---|---|---:|---:|---:|---:|---:|---:|---:|"
)


def rate(run: Run, clock: str) -> float:
    """Samples per second of ``wall`` or ``cpu`` time, from the end of the warm-up to the end of the last step."""
    stamps = run[clock]
    steps = len(stamps) - 1 - run["warmup"]
    if steps < 1:
        raise ValueError(f"{len(stamps) - 1} steps leave none after a warm-up of {run['warmup']}.")
    return run["batch_size"] * steps / (stamps[-1] - stamps[run["warmup"]])


def peak(run: Run) -> float:
    """MiB of the process and its children at their highest."""
    return max(run["peak_mib"], run["tree_mib"])


def added(run: Run) -> float:
    """MiB that training took above what was resident when it began."""
    return run["training_mib"] - run["before_mib"]


def table(runs: Sequence[Run]) -> str:
    """Markdown: medians over rounds; ratios are formed within a round, then their median is taken."""
    lines = [HEAD]
    for size in ordered(run["size"] for run in runs):
        own = [run for run in runs if run["size"] == size]
        for system in ordered((run["system"] for run in own), SYSTEMS):
            cells = [
                *measured(own, system, lambda run: rate(run, "wall"), max, 2),
                *measured(own, system, lambda run: rate(run, "cpu"), max, 2),
                *measured(own, system, peak, min, 0),
                measured(own, system, added, min, 0)[0],
            ]
            lines.append(f"| {size} | {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(
    runs: Sequence[Run], system: str, value: Callable[[Run], float], best: Callable[..., float], digits: int
) -> tuple[str, str]:
    """A system's median value, and its median ratio to the better peer of the same round (empty without peers)."""
    values, ratios = [], []
    for number in ordered(run["round"] for run in runs):
        found = {run["system"]: value(run) for run in runs if run["round"] == number}
        if system not in found:
            continue
        values.append(found[system])
        peers = [found[peer] for peer in PEERS if peer in found]
        if peers:
            ratios.append(found[system] / best(peers))
    ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
    return f"{statistics.median(values):.{digits}f}", ratio


def agreement(runs: Sequence[Run]) -> str:
    """Markdown: how far losses are from mosear's, at the first step and at worst."""
    lines = [
        "| | system | first loss | first difference | largest difference | steps |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for size in ordered(run["size"] for run in runs):
        curves = {run["system"]: run["loss"] for run in reversed(runs) if run["size"] == size}  # the first round's
        base = curves.get(BASE)
        for system in ordered(curves, SYSTEMS):
            cells = [f"{curves[system][0]:.4f}", "", "", str(len(curves[system]))]
            if base is not None and system != BASE:
                gaps = [abs(own - ours) for own, ours in zip(curves[system], base, strict=True)]
                cells[1] = f"{gaps[0]:.1e}"
                cells[2] = f"{max(gaps):.1e}" if system in CURVES else "another adapter"
            lines.append(f"| {size} | {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def version_lines(runs: Sequence[Run]) -> str:
    """One line of versions per environment."""
    found = {run["system"]: run["versions"] for run in runs}
    kept = [name for name in ordered(found, SYSTEMS) if name in (BASE, *PEERS)]
    return "\n".join(f"{name}: " + ", ".join(f"{k} {v}" for k, v in found[name].items()) for name in kept)


def ordered(names: Iterable[Any], order: Sequence[Any] = ()) -> list[Any]:
    """Each name once: in the given order, or as they came."""
    unique = list(dict.fromkeys(names))
    return [name for name in order if name in unique] if order else unique
