"""Finished runs, read and grouped for a comparison: benchmark -> system -> backbone -> seed.

A system is what was tuned, and how it was steered. Runs of one system on several backbones are bases, on one backbone
seeds. An evaluation of a trained adapter belongs to the system that was trained: experiment and seed are those of the
training run, if its ``metrics.json`` is still beside the adapter. Late fusion of a system's unimodal readings is listed
under it as a control. The page and the table of :mod:`mosear.evaluation.aggregate` both start from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mosear.evaluation.kinds import SCORINGS
from mosear.evaluation.predictions import Kind, PredictionRow, kind_of
from mosear.evaluation.runs import METRICS, PREDICTIONS, RunFiles
from mosear.evaluation.summary import by_subset, control_correctness

CONTROLS = {"late_fusion": "late fusion", "late_fusion_transcript": "late fusion + transcript"}
ZERO_SHOT = "zero-shot"
_TOLD_ALREADY = ("seed", "backbone", "benchmark", "steering", "adapter_path", "run_dir")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model's answers to one benchmark.

    Attributes:
        files: what the run left.
        system: name of what was run.
        base: backbone.
        seed: seed of the training, 0 for the bare backbone.
        benchmark: name of the benchmark.
        labels: the label list, which orders every distribution.
        rows: the answers, by clip id.
        scores: what ``metrics.json`` says about this model.
    """

    files: RunFiles
    system: str
    base: str
    seed: int
    benchmark: str
    labels: tuple[str, ...]
    rows: Mapping[str, PredictionRow]
    scores: Mapping[str, Any]

    @property
    def tuned(self) -> bool:
        """Whether an adapter answered."""
        return next(iter(self.rows.values())).model != "zero_shot"

    @property
    def has_readings(self) -> bool:
        """Whether face or voice were read alone, which late fusion needs."""
        return any(row.p_visual is not None or row.p_audio is not None for row in self.rows.values())

    def same_answers(self, other: Run) -> bool:
        """Whether both answered every clip alike."""
        return self.rows.keys() == other.rows.keys() and all(
            row.answer == other.rows[name].answer for name, row in self.rows.items()
        )

    @property
    def kind(self) -> Kind:
        """What was predicted."""
        return kind_of(self.rows.values())


@dataclass
class System:
    """Runs of one system on one benchmark, or a control made of their unimodal readings.

    Attributes:
        name: heading.
        control: whether it is late fusion of another system's readings.
        hits: ``{base: {seed: {subset: [N]}}}`` how right each clip is, see :attr:`PredictionRow.credit`; clips in the
            order of their ids.
        runs: the runs behind it.
    """

    name: str
    control: bool = False
    hits: dict[str, dict[int, dict[str, npt.NDArray[np.float64]]]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def arrays(self) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """``{base: {subset: [S, N]}}``."""
        return {
            base: {subset: np.stack([hits[subset] for hits in seeds.values()]) for subset in next(iter(seeds.values()))}
            for base, seeds in self.hits.items()
        }

    def size(self) -> str:
        """How many runs, in words."""
        seeds = {len(seeds) for seeds in self.hits.values()}
        per_base = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else _plural(seeds.pop(), "seed")
        return per_base if len(self.hits) == 1 else f"{len(self.hits)} backbones, {per_base} each"


@dataclass
class Benchmark:
    """Everything that was run on one test set.

    Attributes:
        name: of the benchmark.
        labels: the label list.
        kind: what its systems predict.
        subsets: ``{subset: clip ids}``, sorted ids, subsets in the benchmark's own order.
        systems: ``{name: System}``, a system's controls after it.
    """

    name: str
    labels: tuple[str, ...]
    kind: Kind
    subsets: dict[str, list[str]]
    systems: dict[str, System] = field(default_factory=dict)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def find_runs(arguments: Iterable[str | Path]) -> list[tuple[RunFiles, str | None]]:
    """Runs with the name given to them, if any.

    Args:
        arguments: run directories, directories with runs somewhere below them (a multirun), or ``NAME=DIRECTORY``.

    Raises:
        ValueError: if a directory is no finished run and holds none.
    """
    found: dict[Path, str | None] = {}
    for argument in arguments:
        name, path = None, Path(argument)
        if not path.exists() and "=" in str(argument):
            name, _, rest = str(argument).partition("=")
            path = Path(rest)
        runs = [path] if RunFiles(path).finished else [file.parent for file in path.rglob(PREDICTIONS)]
        runs = [run for run in runs if RunFiles(run).finished]
        if not runs:
            raise ValueError(
                f"{path} is not a finished run and holds none: there is no {PREDICTIONS} with a {METRICS} beside it. "
                "Give run directories, a multirun directory, or NAME=DIRECTORY."
            )
        for run in sorted(runs, key=_natural):
            found.setdefault(run, name)
    return [(RunFiles(path), name) for path, name in found.items()]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Job 10 comes after job 2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def read_runs(files: RunFiles, name: str | None = None) -> list[Run]:
    """The models of one run.

    Args:
        files: a finished run.
        name: of its system, instead of the experiment's; steering is still added.
    """
    rows, labels = files.predictions
    by_model: dict[str, dict[str, PredictionRow]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        by_model.setdefault(row.model, {})[row.id] = row
    runs = []
    for model, own in by_model.items():
        first = next(iter(own.values()))
        title, seed = ZERO_SHOT if len(by_model) > 1 or name is None else name, 0
        if model != "zero_shot":
            trained, seed = files.trained
            title = name or trained
        runs.append(
            Run(
                files=files,
                system=title + ("" if first.steering == "none" else f" + {first.steering}"),
                base=files.metrics["run"].get("backbone") or files.metrics["run"]["features"],
                seed=seed,
                benchmark=first.benchmark,
                labels=tuple(labels),
                rows=own,
                scores=files.metrics if model == files.metrics.get("model", model) else files.metrics.get(model, {}),
            )
        )
    return runs


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs with distinct names: equal answers of the bare backbone once, others by what was overridden for them."""
    kept: list[Run] = []
    for run in runs:
        alike = (i for i, old in enumerate(kept) if not old.tuned and _key(old) == _key(run) and old.same_answers(run))
        twin = None if run.tuned else next(alike, None)
        if twin is None:
            kept.append(run)
        elif run.has_readings and not kept[twin].has_readings:
            kept[twin] = run
    keys = [_key(run) for run in kept]
    doubled = {(key[0], key[1]) for key in keys if keys.count(key) > 1}
    overridden = {run.files: _overrides(run.files) for run in kept}
    named = []
    for run in kept:
        family = [other for other in kept if (other.benchmark, other.system) == (run.benchmark, run.system)]
        if (run.benchmark, run.system) in doubled:
            shared = set.intersection(*(set(overridden[other.files]) for other in family))
            own = [entry for entry in overridden[run.files] if entry not in shared]
            run = replace(run, system=f"{run.system} ({', '.join(own)})") if own else run
        named.append(run)
    for i, run in enumerate(named):
        for other in named[:i]:
            if _key(other) == _key(run):
                raise ValueError(
                    f"{run.files.directory} repeats {run.system} on {run.base} with seed {run.seed} "
                    f"({other.files.directory}). Give each seed once, or name the systems: NAME=DIRECTORY."
                )
    return named


def _key(run: Run) -> tuple[str, str, str, int]:
    return run.benchmark, run.system, run.base, run.seed


def _overrides(files: RunFiles) -> list[str]:
    shown = [entry.lstrip("+~") for entry in files.overrides]
    return [entry for entry in shown if entry.partition("=")[0] not in _TOLD_ALREADY]


def collect(
    found: Iterable[tuple[RunFiles, str | None]], controls: Iterable[tuple[RunFiles, str | None]] = ()
) -> list[Benchmark]:
    """Read runs and group them.

    Args:
        found: of :func:`find_runs`.
        controls: more runs, on a backbone that is no further base but a control, say one without the bias; their
            systems are named after it.

    Raises:
        ValueError: if runs of one benchmark have other labels or clips, predict things of several kinds, or cannot be
            told apart.
    """
    benchmarks: dict[str, Benchmark] = {}
    runs = [run for files, name in found for run in read_runs(files, name)]
    for run in [run for files, name in controls for run in read_runs(files, name)]:
        runs.append(replace(run, system=f"{run.base}, {run.system}"))
    for run in _told_apart(runs):
        groups = by_subset(list(run.rows.values()))
        order = [*(s for s in run.scores.get("subsets", {}) if s in groups), *groups]
        subsets = {subset: [row.id for row in groups[subset]] for subset in dict.fromkeys(order)}
        benchmark = benchmarks.setdefault(run.benchmark, Benchmark(run.benchmark, run.labels, run.kind, subsets))
        _check_same_test(benchmark, run, subsets)
        groups = {subset: groups[subset] for subset in benchmark.subsets}
        hits = {subset: np.array([row.credit for row in rows], dtype=float) for subset, rows in groups.items()}
        system = benchmark.systems.setdefault(run.system, System(run.system))
        system.hits.setdefault(run.base, {})[run.seed] = hits
        system.runs.append(run)
        for control, values in control_correctness(groups, run.labels).items():
            title = f"{run.system}, {CONTROLS[control]}"
            entry = benchmark.systems.setdefault(title, System(title, control=True))
            entry.hits.setdefault(run.base, {})[run.seed] = values
    for benchmark in benchmarks.values():
        benchmark.systems = dict(sorted(benchmark.systems.items(), key=lambda item: _order(item[1], benchmark)))
    return list(benchmarks.values())


def _order(system: System, benchmark: Benchmark) -> tuple[bool, int, bool]:
    """The bare backbone first, then as given; controls after their system."""
    owners = [name for name, other in benchmark.systems.items() if not other.control]
    owner = max((name for name in owners if system.name.startswith(name)), key=len)
    return not owner.startswith(ZERO_SHOT), owners.index(owner), system.control


def _check_same_test(benchmark: Benchmark, run: Run, subsets: Mapping[str, list[str]]) -> None:
    if run.kind != benchmark.kind:
        raise ValueError(
            f"{run.files.directory} predicts {SCORINGS[run.kind].what}, other runs on {benchmark.name} predict "
            f"{SCORINGS[benchmark.kind].what}; only runs that predict the same can be compared: compare each by itself."
        )
    if run.labels != benchmark.labels:
        raise ValueError(
            f"{run.files.directory} answered {benchmark.name} with the labels {list(run.labels)}, other runs with "
            f"{list(benchmark.labels)}; only runs with one label list can be compared."
        )
    reference = next((system.runs[0] for system in benchmark.systems.values() if system.runs), run)
    same_labels = all(run.rows[name].truth == row.truth for name, row in reference.rows.items() if name in run.rows)
    if subsets != benchmark.subsets or not same_labels:
        raise ValueError(
            f"{run.files.directory} covers other clips of {benchmark.name} than {reference.files.directory} "
            f"({len(run.rows):,} and {len(reference.rows):,} clips): a paired comparison needs the same clips, subsets "
            "and true labels. Leave one of them out, or give the benchmarks different names (benchmark.name=...)."
        )
