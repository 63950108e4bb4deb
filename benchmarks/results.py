"""Reruns the tables of docs/results.md: ``python -m benchmarks.results --seeds 0 1 2 --test-clips 3000``.

Every row is a run of ``train.py``, or of ``eval.py`` for a bare backbone; its directory stays under
``outputs/results``. A finished run is not repeated, so an interrupted call goes on where it stopped, and several calls
may share the work (``--only-runs``). The tables are written to ``docs/tables/``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from benchmarks.options import CONF, ROOT
from mosear.evaluation.aggregate import collect, differences, markdown, table

BACKBONES = {"tiny_omni": "tiny-omni", "tiny_omni_beta4": "tiny-omni-beta4", "tiny_omni_balanced": "tiny-omni-balanced"}
CONTROL = "tiny_omni_balanced"
DATA = {"synthetic": "natural", "synthetic_voice_dominant": "voice-dominant"}
NO_PRIOR = ["method.visual_prior=0"]
EXTRA = {"synthetic": [], "synthetic_voice_dominant": NO_PRIOR}
"""The mixing recipes' prior for faces was chosen on validation clips for natural training clips; for these it is 0."""
RECIPES_OF_BEFORE = {
    "long": ["trainer.max_epochs=24", "tuning.learning_rate=2e-3"],
    "short": ["trainer.max_epochs=8", "tuning.learning_rate=2e-3"],
}
"""``--form``: as the recipes were when the tables of that name were measured."""
MIXING_OF_BEFORE = {"long": ["method.rate=0.5"], "short": ["method.rate=0.5", *NO_PRIOR]}
GATE_OF_BEFORE = {"long": [], "short": ["adapter.kl_weight=0"]}
GATED = ("mosear", "mosear_plain")
EXPERIMENTS = ("lora", "mosear_plain", "lora_mixing", "mosear")
FUSION = "zero-shot, late fusion"
PAIRS = (
    ("lora_mixing", "lora"),
    ("mosear", "mosear_plain"),
    ("mosear", "lora_mixing"),
    *((name, other) for name in ("lora_mixing", "mosear") for other in ("zero-shot", FUSION)),
    *((name, f"{FUSION} + transcript") for name in ("lora_mixing", "mosear")),
)


def changed(overrides: Sequence[str], by: Sequence[str]) -> list[str]:
    """Overrides, each key once: those of ``by`` count."""
    keys = dict(override.split("=", 1) for override in (*overrides, *by))
    return [f"{key}={value}" for key, value in keys.items()]


def mixes(experiment: str) -> bool:
    """Is it a recipe with conflict mixing, and so with a prior for faces?"""
    recipe = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")
    return {"override /method": "conflict_mixing_synthetic"} in recipe.defaults


def recipe_of_before(experiment: str, form: str) -> list[str]:
    """What makes a recipe the one of an earlier form."""
    mixing = MIXING_OF_BEFORE[form] if mixes(experiment) else []
    return [*RECIPES_OF_BEFORE[form], *mixing, *(GATE_OF_BEFORE[form] if experiment in GATED else [])]


class Study:
    """Where runs live and how one is made.

    Args:
        out: directory of all runs.
        test_clips: per test subset; a third of them where a modality is missing.
        form: tune as the recipes are (``None``) or by :func:`recipe_of_before`.
    """

    def __init__(self, out: Path, test_clips: int, *, form: str | None = None) -> None:
        self.out, self.test_clips, self.form = out, test_clips, form

    @property
    def suffix(self) -> str:
        """Behind the names of what is tuned."""
        return f"-{self.form}" if self.form else ""

    def bare(self, backbone: str) -> Path:
        """The backbone without an adapter, with its unimodal readings."""
        target = self.out / f"{backbone}-n{self.test_clips}" / "bare"
        return self.run(target, "eval.py", [f"backbone={backbone}", "answering.readings=true", "report.examples=0"])

    def tuned(self, backbone: str, data: str, experiment: str, seed: int) -> Path:
        """An adapter of one seed."""
        target = self.out / f"{backbone}-n{self.test_clips}" / f"{DATA[data]}{self.suffix}" / f"{experiment}-{seed}"
        extra = EXTRA[data] if mixes(experiment) else []
        changes = changed(extra, recipe_of_before(experiment, self.form) if self.form else [])
        overrides = [f"+experiment={experiment}", f"backbone={backbone}", f"data={data}", f"seed={seed}", *changes]
        return self.run(target, "train.py", [*overrides, "zero_shot=false", "answering.readings=false"])

    def variation(self, folder: str, experiment: str, seed: int, overrides: list[str]) -> Path:
        """A recipe with changes, on its own backbone and data."""
        options = [
            f"+experiment={experiment}",
            f"seed={seed}",
            *overrides,
            "zero_shot=false",
            "answering.readings=false",
        ]
        return self.run(self.out / f"ablations-n{self.test_clips}" / folder, "train.py", options)

    def sizes(self) -> list[str]:
        """Overrides that fix the size of the test set."""
        return [f"data.prepare.test_clips={self.test_clips}", f"data.prepare.missing_clips={self.test_clips // 3}"]

    def run(self, target: Path, script: str, overrides: list[str]) -> Path:
        """One run, unless it is finished or being made."""
        claim = target.with_name(f"{target.name}.running")
        if (target / "metrics.json").is_file():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with claim.open("x", encoding="utf-8") as file:
                file.write(f"process {os.getpid()} on {platform.node()}")
        except FileExistsError:
            owner = claim.read_text(encoding="utf-8")
            print(f"== {target} is being made by {owner or 'another call'} (if it is not, delete {claim})", flush=True)
            return target
        try:
            print(f"== {target}", flush=True)
            command = [sys.executable, script, *overrides, *self.sizes(), f"hydra.run.dir={target}"]
            subprocess.run(command, cwd=ROOT, check=True)
        finally:
            os.unlink(claim)
        return target


def write_tables(study: Study, args: argparse.Namespace) -> None:
    """One file per backbone and training flavour, and one over the biased backbones together; the control in each."""
    tables = ROOT / "docs" / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    biased = [backbone for backbone in args.backbones if backbone != CONTROL]
    groups = {backbone: [backbone] for backbone in args.backbones}
    groups |= {"both": biased} if len(biased) > 1 else {}
    for (name, backbones), data in itertools.product(groups.items(), args.data):
        runs = [study.bare(backbone) for backbone in backbones]
        for backbone, recipe, seed in itertools.product(backbones, args.experiments, args.seeds):
            runs.append(study.tuned(backbone, data, recipe, seed))
        benchmark = collect(runs, [] if backbones == [CONTROL] else [study.bare(CONTROL)])
        pairs = [pair for pair in PAIRS if set(pair) <= set(benchmark.systems)]
        text = markdown(table(benchmark)) + "\n" + markdown(differences(benchmark, pairs))
        (tables / f"{name}-{DATA[data]}{study.suffix}.md").write_text(text, encoding="utf-8")
        print(text)


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Which seeds on how many clips, and where runs live."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--test-clips", type=int, default=3000, help="per test subset")
    parser.add_argument("--only-runs", action="store_true", help="make runs, write no tables")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "results")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS))
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES)[:2], choices=list(BACKBONES))
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument(
        "--form",
        choices=sorted(RECIPES_OF_BEFORE),
        help="recipes of before: of 24 epochs, or of 8 without prior",
    )
    add_study_options(parser)
    args = parser.parse_args()
    study = Study(args.out.resolve(), args.test_clips, form=args.form)
    for backbone in dict.fromkeys([*args.backbones, CONTROL]):
        study.bare(backbone)
    for seed in args.seeds:
        for backbone in args.backbones:
            for data in args.data:
                for experiment in args.experiments:
                    study.tuned(backbone, data, experiment, seed)
    if not args.only_runs:
        write_tables(study, args)


if __name__ == "__main__":
    main()
