"""What each part of the recipe contributes: ``python -m benchmarks.ablations --seeds 0 1 2 --test-clips 3000``.

Every row is a short form of ``train.py +experiment=mosear`` (a third of the steps, no prior for faces, no term for the
gate) with one change; same data, steps and total rank unless the change is about them. The recipe itself, without
mixing and as a plain LoRA, are runs of ``benchmarks.results --form short`` and shared with it. A finished run is not
repeated. The table is written to ``docs/tables/ablations.md``, with the difference of every row to the short recipe.
"""

from __future__ import annotations

import argparse

from benchmarks.options import ROOT
from benchmarks.results import Study, add_study_options, changed, recipe_of_before
from mosear.evaluation.aggregate import collect, differences, markdown, table

BACKBONE, DATA = "tiny_omni", "synthetic"
FULL = "mosear"
FORM = "short"
SHARED = (FULL, "mosear_plain", "lora_mixing")
VARIATIONS: dict[str, list[str]] = {
    "mixing rate 0.25": ["method.rate=0.25"],
    "mixing rate 0.75": ["method.rate=0.75"],
    "gate balance 0.1": ["adapter.balance_weight=0.1"],
    "gate KL 0.1": ["adapter.kl_weight=0.1"],
    "uniform gate": ["adapter.gate=uniform"],
    "modality dropout 0.2": ["adapter.modality_dropout=0.2"],
    "K = 3": ["adapter.experts_per_group=3"],
    "rank 2": ["adapter.r=2", "adapter.alpha=4"],
    "rank 8": ["adapter.r=8", "adapter.alpha=16"],
}
"""Overrides of each row."""
DETAILS: dict[str, list[str]] = {
    "mixing: strengths as they are": ["method.scale=none"],
    "mixing: no transcript": ["method.transcript=none"],
    "mixing: evidence from readings": ["method.evidence=reading"],
    "mixing: weak modality weight 1": ["method.weak_modality_weight=1"],
    "mixing: hard sample weight 1": ["method.hard_sample_weight=1"],
    "mixing: prior for faces 0.5": ["method.visual_prior=0.5"],
    "24 epochs": ["trainer.max_epochs=24"],
}
"""Rows about how mixing makes its targets, and about steps: large effects or none, so the first seed alone."""


def slug(name: str) -> str:
    """A variation's name as a directory and as a run name."""
    return "".join(letter if letter.isalnum() or letter == "." else "_" for letter in name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[*VARIATIONS, *DETAILS], choices=[*VARIATIONS, *DETAILS], metavar="NAME"
    )
    add_study_options(parser)
    args = parser.parse_args()
    study = Study(args.out.resolve(), args.test_clips, form=FORM)
    runs = []
    for seed in args.seeds:
        runs += [study.tuned(BACKBONE, DATA, name, seed) for name in SHARED]
        for name in args.only:
            if name in DETAILS and seed != args.seeds[0]:
                continue
            overrides = [*changed(recipe_of_before(FULL, FORM), (VARIATIONS | DETAILS)[name]), f"name={slug(name)}"]
            runs.append(study.variation(f"{slug(name)}-{seed}", FULL, seed, overrides))
    if args.only_runs:
        return
    benchmark = collect(runs)
    pairs = [(name, FULL) for name in benchmark.systems if name != FULL]
    text = markdown(table(benchmark)) + "\n" + markdown(differences(benchmark, pairs))
    (ROOT / "docs" / "tables" / "ablations.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
