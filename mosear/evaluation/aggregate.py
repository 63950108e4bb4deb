"""One table from many runs: ``python -m mosear.evaluation.aggregate outputs/lora/* --markdown table.md``.

Runs are grouped into systems by what was tuned (experiment name, model, steering); within a system, runs on several
backbones are bases and runs on one backbone are seeds. Intervals resample clips within bases, with seeds nested. Late
fusion of a system's unimodal readings is listed under it as a control.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mosear.evaluation import bootstrap
from mosear.evaluation.predictions import PredictionRow, read_predictions
from mosear.evaluation.summary import by_subset, control_correctness
from mosear.files import written_atomically

CONFLICT = ("video_aligned", "audio_aligned")
CONTROLS = {"late_fusion": "late fusion", "late_fusion_transcript": "late fusion + transcript"}

Hits = dict[str, np.ndarray]
"""``{subset: [N] correctness}`` of one run, clips in the order of their ids."""


@dataclass
class System:
    """What was tuned, with the runs that say how well it does: ``{base: {seed: hits}}``."""

    name: str
    runs: dict[str, dict[int, Hits]] = field(default_factory=dict)

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """``{base: {subset: [S, N]}}``."""
        return {
            base: {subset: np.stack([hits[subset] for hits in seeds.values()]) for subset in next(iter(seeds.values()))}
            for base, seeds in self.runs.items()
        }

    def seeds(self) -> int:
        """Runs per base (the smallest number, if they differ)."""
        return min(len(seeds) for seeds in self.runs.values())


def collect(run_dirs: Sequence[Path], reference: Sequence[Path] = ()) -> dict[str, System]:
    """Read ``predictions.parquet`` and ``metrics.json`` of every run.

    Args:
        run_dirs: the runs to compare.
        reference: runs on a backbone that is no further base but a control, say one without the bias; its systems are
            named after it.

    Raises:
        ValueError: if a directory is not a finished run, or two runs have the same system, backbone and seed.
    """
    systems: dict[str, System] = {}
    for run_dir in (*run_dirs, *reference):
        for name in ("predictions.parquet", "metrics.json"):
            if not (run_dir / name).is_file():
                raise ValueError(f"{run_dir} is not a finished run: it has no {name}. Give run directories.")
        rows, labels = read_predictions(run_dir / "predictions.parquet")
        info = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
        base, name = info["run"]["backbone"], info["run"].get("experiment", run_dir.parent.name)
        for model in dict.fromkeys(row.model for row in rows):
            own = sorted((row for row in rows if row.model == model), key=lambda row: row.id)
            steering = "" if own[0].steering == "none" else f" + {own[0].steering}"
            title = ("zero-shot" if model == "zero_shot" else name) + steering
            if run_dir in reference:
                title = f"{base}, {title}"
            seed = 0 if model == "zero_shot" else own[0].seed
            found = by_subset(own)
            groups = {subset: found[subset] for subset in info["subsets"]}  # in the benchmark's own order
            _add(systems, title, base, seed, _hits(groups), run_dir, repeatable=model == "zero_shot")
            for control, hits in control_correctness(groups, labels).items():
                control_title = f"{title}, {CONTROLS[control]}"
                _add(systems, control_title, base, seed, hits, run_dir, repeatable=model == "zero_shot")
    return systems


def _hits(groups: Mapping[str, Sequence[PredictionRow]]) -> Hits:
    return {subset: np.array([row.correct for row in rows], dtype=float) for subset, rows in groups.items()}


def _add(
    systems: dict[str, System], name: str, base: str, seed: int, hits: Hits, run_dir: Path, *, repeatable: bool
) -> None:
    seeds = systems.setdefault(name, System(name)).runs.setdefault(base, {})
    if seed in seeds and not repeatable:
        raise ValueError(f"{run_dir} repeats {name} on {base} with seed {seed}; give each seed once.")
    seeds[seed] = hits


def table(systems: Mapping[str, System], *, n_boot: int = 2000) -> list[list[str]]:
    """Header and one row per system: accuracy per subset, conflict mean and gap, in percent with 95 % intervals."""
    subsets = list(next(iter(next(iter(systems.values())).arrays().values())))
    has_conflict = set(CONFLICT) <= set(subsets)
    header = ["system", "bases x seeds", *(subset.replace("_", " ") for subset in subsets)]
    rows = [header + (["conflict mean", "gap"] if has_conflict else [])]
    for system in systems.values():
        arrays = system.arrays()
        cells = [system.name, f"{len(arrays)} x {system.seeds()}"]
        for subset in subsets:
            own = {base: values[subset] for base, values in arrays.items()}
            cells.append(_cell(bootstrap.nested_bootstrap(own, shared_clips=True, n_boot=n_boot)))
        for statistic in (bootstrap.conflict_mean_statistic, bootstrap.gap_statistic) if has_conflict else ():
            both = {base: {subset: values[subset] for subset in CONFLICT} for base, values in arrays.items()}
            cells.append(_cell(bootstrap.nested_bootstrap(both, statistic, shared_clips=True, n_boot=n_boot)))
        rows.append(cells)
    return rows


AVERAGED = ("consistent", "video_aligned", "audio_aligned", "contextual")
"""Subsets with all three modalities, whose mean says what a method gives and takes."""


def mean_of_four(means: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean over consistent, video-aligned, audio-aligned and contextual clips."""
    return np.mean([means[subset] for subset in AVERAGED], axis=0)


def differences(
    systems: Mapping[str, System], pairs: Sequence[tuple[str, str]], *, n_boot: int = 2000, seed: int = 0
) -> list[list[str]]:
    """Header and one row per pair ``(a, b)``: a minus b in points, clips resampled together, with 95 % intervals.

    Raises:
        ValueError: if a pair names an unknown system, or two that share no base.
    """
    subsets = list(next(iter(next(iter(systems.values())).arrays().values())))
    statistics: dict[str, tuple[bootstrap.Statistic | None, tuple[str, ...]]] = {
        "conflict mean": (bootstrap.conflict_mean_statistic, CONFLICT),
        "gap": (bootstrap.gap_statistic, CONFLICT),
        "mean of four": (mean_of_four, AVERAGED),
    }
    statistics = {name: entry for name, entry in statistics.items() if set(entry[1]) <= set(subsets)}
    rows = [["difference", *(subset.replace("_", " ") for subset in subsets), *statistics]]
    for first, second in pairs:
        for name in (first, second):
            if name not in systems:
                raise ValueError(f"There is no system {name!r} in these runs; there are: {', '.join(systems)}.")
        a, b = systems[first].arrays(), systems[second].arrays()
        shared = [base for base in a if base in b]
        if not shared:
            raise ValueError(f"{first!r} and {second!r} were run on different backbones: {list(a)} and {list(b)}.")
        plain: dict[str, tuple[bootstrap.Statistic | None, tuple[str, ...]]] = {
            name: (None, (name,)) for name in subsets
        }
        cells = [f"{first} - {second}"]
        for statistic, parts in (plain | statistics).values():
            left, right = (_parts(system, shared, parts) for system in (a, b))
            cells.append(
                _cell(
                    bootstrap.nested_paired_difference(
                        left, right, statistic, shared_clips=True, n_boot=n_boot, seed=seed
                    ),
                    sign="+",
                )
            )
        rows.append(cells)
    return rows


def _parts(
    system: Mapping[str, Mapping[str, np.ndarray]], bases: Sequence[str], parts: Sequence[str]
) -> dict[str, bootstrap.Correctness]:
    """``{base: [S, N]}`` of one subset, or ``{base: {subset: [S, N]}}`` of several."""
    if len(parts) == 1:
        return {base: system[base][parts[0]] for base in bases}
    return {base: {part: system[base][part] for part in parts} for base in bases}


def _cell(interval: bootstrap.Interval, sign: str = "") -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories")
    parser.add_argument(
        "--minus",
        nargs=2,
        action="append",
        default=[],
        metavar=("A", "B"),
        help="also compare two systems, clip by clip",
    )
    parser.add_argument("--reference", nargs="+", type=Path, default=[], help="runs on a control backbone")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--n-boot", type=int, default=2000, help="bootstrap replicates")
    args = parser.parse_args()
    try:
        systems = collect(args.runs, args.reference)
        text = markdown(table(systems, n_boot=args.n_boot))
        if args.minus:
            text += "\n" + markdown(differences(systems, args.minus, n_boot=args.n_boot))
    except ValueError as error:
        parser.error(str(error))
    print(text, end="")
    if args.markdown is not None:
        with written_atomically(args.markdown) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
