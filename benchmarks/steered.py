"""Steering against its controls: ``python -m benchmarks.steered --backbones tiny_omni --adapters mosear --seeds 0 1``.

Settings are calibrated on validation clips (``python -m mosear calibrate``), per backbone and per adapter, then every
policy is tested once. Rows: no steering, both late fusions, AR, CHASE with extra passes, CHASE in a single pass, CHASE
with the true direction (a ceiling, no method), and the unbiased control. Runs are shared with ``benchmarks.results``; a
finished one is not repeated. Tables are written to ``docs/tables/*-steered.md``,
one per backbone and one over several.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.options import ROOT
from benchmarks.results import BACKBONES, CONTROL, Study, add_study_options
from benchmarks.table_page import write_page
from mosear.evaluation.aggregate import collect, differences, markdown, table

POLICIES = {"ar": [], "chase": [], "chase_heads": ["--detector", "heads"], "chase_oracle": []}
"""What is tested, with options of its calibration; the oracle takes the settings of ``chase``."""
ORACLE = "+steering.changes.chase.target=oracle"
FUSION = "late fusion"


def calibrated(study: Study, backbone: str, policy: str, adapter: Path | None) -> Path:
    """The settings file of a policy, beside the adapter or beside the runs of the bare backbone."""
    name = "chase" if policy == "chase_oracle" else policy
    place = (
        study.out / f"{backbone}-n{study.test_clips}" / "steering" if adapter is None else adapter.parent / "steering"
    )
    target = place / f"{name}.json"
    if target.is_file():
        return target
    place.mkdir(parents=True, exist_ok=True)
    model = ["--backbone", BACKBONES[backbone]] if adapter is None else ["--adapter", str(adapter)]
    command = [sys.executable, "-m", "mosear", "calibrate", "--policy", name.split("_")[0], *POLICIES[name]]
    subprocess.run([*command, *model, "--out", str(target), *study.sizes()], cwd=ROOT, check=True)
    return target


def chose_nothing(settings: Path) -> bool:
    """Did calibration find no policy that gains more than chance would?"""
    return bool(json.loads(settings.read_text(encoding="utf-8"))["scores"]["chose"] == "none")


def steered(study: Study, backbone: str, policy: str, run: Path | None = None) -> Path:
    """The test of a policy on the bare backbone, or on the adapter of a run."""
    adapter = None if run is None else run / "adapter"
    settings = calibrated(study, backbone, policy, adapter)
    overrides = [f"steering.name={policy}", "answering.readings=false", "report.examples=0"]
    if chose_nothing(settings) and policy != "chase_oracle":
        overrides += ["steering=ar", "steering.ar.portion=0"]  # the same answers, and nothing is read for them
    else:
        overrides += [f"steering={policy.split('_')[0]}", f"steering.settings={settings}"]
    if policy == "chase_oracle":
        overrides.append(ORACLE)
    if run is not None:
        info = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        overrides += [f"+experiment={info['run']['experiment']}", f"seed={info['seed']}", f"adapter={adapter}"]
        overrides += ["zero_shot=false"]
    return study.run(settings.with_name(policy), "eval.py", [*overrides, f"backbone={backbone}"])


def tuned_with_readings(study: Study, backbone: str, run: Path) -> Path:
    """The adapter's own test with its unimodal readings, of which late fusion is made."""
    info = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    overrides = [
        f"+experiment={info['run']['experiment']}", f"backbone={backbone}", f"seed={info['seed']}",
        f"adapter={run / 'adapter'}", "zero_shot=false", "answering.readings=true", "report.examples=0",
    ]  # fmt: skip
    return study.run(run / "steering" / "none", "eval.py", overrides)


def publish(study: Study, name: str, runs: list[Path], plain: str, policies: list[str], *, only_runs: bool) -> None:
    """A table of systems and one of differences."""
    if only_runs:
        return
    benchmark = collect(runs, [study.bare(CONTROL)])
    pairs = [(f"{plain} + {policy}", plain) for policy in policies]
    pairs += [
        (f"{plain} + {policy}", f"{plain}, {FUSION}{rule}")
        for policy in policies
        if policy != "chase_oracle"
        for rule in ("", " + transcript")
    ]
    target = ROOT / "docs" / "tables" / f"{name}-steered.md"
    print(write_page(target, markdown(table(benchmark)), markdown(differences(benchmark, pairs))))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES)[:2], choices=list(BACKBONES))
    parser.add_argument("--adapters", nargs="*", default=[], help="recipes whose adapters (natural clips) are steered")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    add_study_options(parser)
    args = parser.parse_args()
    study = Study(args.out.resolve(), args.test_clips)
    bare: list[Path] = []
    for backbone in args.backbones:
        runs = [study.bare(backbone), *(steered(study, backbone, policy) for policy in args.policies)]
        publish(study, backbone, runs, "zero-shot", args.policies, only_runs=args.only_runs)
        bare += runs
        for recipe in args.adapters:
            runs = []
            for seed in args.seeds:
                run = study.tuned(backbone, "synthetic", recipe, seed)
                runs.append(tuned_with_readings(study, backbone, run))
                runs += [steered(study, backbone, policy, run) for policy in args.policies]
            publish(study, f"{backbone}-{recipe}", runs, recipe, args.policies, only_runs=args.only_runs)
    if len(args.backbones) > 1:
        publish(study, "both", bare, "zero-shot", args.policies, only_runs=args.only_runs)


if __name__ == "__main__":
    main()
