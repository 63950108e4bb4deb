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


def collect(run_dirs: Sequence[Path]) -> dict[str, System]:
    """Read ``predictions.parquet`` and ``metrics.json`` of every run.

    Raises:
        ValueError: if a directory is not a finished run, or two runs have the same system, backbone and seed.
    """
    systems: dict[str, System] = {}
    for run_dir in run_dirs:
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


def _cell(interval: bootstrap.Interval) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--n-boot", type=int, default=2000, help="bootstrap replicates")
    args = parser.parse_args()
    try:
        rows = table(collect(args.runs), n_boot=args.n_boot)
    except ValueError as error:
        parser.error(str(error))
    text = markdown(rows)
    print(text, end="")
    if args.markdown is not None:
        with written_atomically(args.markdown) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
