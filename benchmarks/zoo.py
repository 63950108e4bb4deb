"""Every fusion model on the embedded corpus, beside the omni models: ``python -m benchmarks.zoo`` (``make zoo``).

Four parts, each with seeds, intervals and a page below docs/tables:

* labels: one emotion per clip, conflicting and missing modalities; each model with and without modality dropout in
  training, tested under noise too, with the share of video in its answers (Shapley values); omni rows for comparison;
* blends: sets of emotions (``data=synthetic_blends``);
* continuous: valence and arousal over time (``data=synthetic_continuous``);
* compression: accuracy of DeepMSI by the share of visual tokens that it keeps.

Features are those of the towers of tiny-omni; models have the sizes of ``conf/model/*_small.yaml`` where there is one.
Settings of training are the same for all. A finished run is not repeated, and several calls may share the work
(``--only-runs``).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.options import ROOT
from benchmarks.results import Study, add_study_options
from benchmarks.table_page import write_page
from mosear.evaluation.aggregate import collect, differences, markdown, table
from mosear.evaluation.runs import METRICS, RunFiles

MODELS = {
    "linear_probe": "linear_probe",
    "late_fusion": "late_fusion",
    "tfn": "tfn_small",
    "mult": "mult_small",
    "grjca": "grjca_small",
    "lddu": "lddu_small",
    "deepmsi": "deepmsi_small",
    "gated_xlstm": "gated_xlstm_small",
}
"""By their names in the tables: the file of conf/model."""
OMNI = {
    "lora": ["+experiment=lora"],
    "mosear": ["+experiment=mosear"],
    "mse": ["+experiment=lora", "adapter=mse", "name=mse"],
}
"""Tuned omni models beside them."""
DROPOUT = "system.augment.modality_dropout=0.3"
NOISE = "1"
KEEP = (1.0, 0.75, 0.5, 0.25, 0.125)
REFERENCE = "linear_probe"


@dataclass(frozen=True)
class Part:
    """Runs that belong into one table.

    Attributes:
        options: of every run.
        models: those that can learn the task.
        dropout: whether each is trained with modality dropout as well.
        subset: of which noise and video's share are shown.
    """

    options: tuple[str, ...]
    models: tuple[str, ...]
    dropout: bool = False
    subset: str = "consistent"


PARTS = {
    "labels": Part((), tuple(MODELS), dropout=True),
    "blends": Part(
        ("data=synthetic_blends", "benchmark=synthetic_blends", "task=labels"),
        ("linear_probe", "late_fusion", "mult", "grjca", "lddu"),
        subset="single",
    ),
    "continuous": Part(
        ("data=synthetic_continuous", "benchmark=synthetic_continuous", "task=series"),
        ("linear_probe", "grjca"),
        subset="moving",
    ),
}


class Zoo(Study):
    """Where the runs live.

    Args:
        out: directory of all runs.
        test_clips: per test subset.
        options: of every run, such as where the data are.
    """

    def __init__(self, out: Path, test_clips: int, options: Sequence[str] = ()) -> None:
        super().__init__(out, test_clips)
        self.options = list(options)

    def sizes(self) -> list[str]:
        """None for all: each part has a corpus of its own, see :meth:`corpus`."""
        return []

    def model(self, part: str, name: str, seed: int) -> Path:
        """One training of a fusion model."""
        file, settings = MODELS[name.removesuffix("+dropout")], PARTS[part]
        target = self.out / f"zoo-n{self.test_clips}" / part / f"{name}-{seed}"
        own = [
            "+experiment=fusion", *settings.options, f"model={file}", f"name={name}", f"seed={seed}",
            *([DROPOUT] if name.endswith("+dropout") else []), f"system.test_noise=[{NOISE}]",
            "answering.contribution.enabled=true", "answering.readings=false", "report.examples=0", *self.corpus(part),
        ]  # fmt: skip
        return self.run(target, "train.py", [*own, *self.options])

    def corpus(self, part: str) -> list[str]:
        """Sizes of the test set."""
        missing = [f"data.prepare.missing_clips={self.test_clips // 3}"] if part == "labels" else []
        return [f"data.prepare.test_clips={self.test_clips}", *missing]

    def omni(self, name: str, seed: int) -> Path:
        """A tuned omni model on the same clips."""
        target = self.out / f"zoo-n{self.test_clips}" / "labels" / f"{name}-{seed}"
        own = [*OMNI[name], f"seed={seed}", "zero_shot=false", "answering.readings=false"]
        own += ["answering.contribution.enabled=true", "report.examples=0", *self.corpus("labels")]
        return self.run(target, "train.py", [*own, *self.options])

    def bare_omni(self) -> Path:
        """The omni model as it is."""
        target = self.out / f"zoo-n{self.test_clips}" / "labels" / "bare"
        own = ["answering.readings=false", "answering.contribution.enabled=true", "report.examples=0"]
        return self.run(target, "eval.py", [*own, *self.corpus("labels"), *self.options])

    def compressed(self, keep: float, seed: int) -> Path:
        """DeepMSI on all visual tokens, of which it keeps a share in each of two blocks."""
        target = self.out / f"zoo-n{self.test_clips}" / "compression" / f"keep{keep:g}-{seed}"
        own = [
            "+experiment=fusion", "model=deepmsi_small", f"name=keep {keep:g}", f"seed={seed}", "features.video=tokens",
            f"model.keep=[{keep},{keep}]", "answering.readings=false", "report.examples=0", *self.corpus("labels"),
        ]  # fmt: skip
        return self.run(target, "train.py", [*own, *self.options])


def names_of(part: Part) -> list[str]:
    """Rows of a part."""
    return [name for model in part.models for name in ([model, f"{model}+dropout"] if part.dropout else [model])]


def finished(runs: Sequence[Path]) -> list[Path]:
    """Those that are there."""
    return [run for run in runs if (run / METRICS).is_file()]


def facts(rows: Mapping[str, Sequence[Path]], subset: str) -> str:
    """Parameters, seconds of training, accuracy under noise, and video's share; means over seeds."""
    lines = [
        f"| model | trainable parameters | training (s) | {subset} with noise | video's share, {subset} | video |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, runs in rows.items():
        found = [RunFiles(run).metrics for run in runs]
        if found:
            lines.append(f"| {name} | " + " | ".join(fact_cells(found, subset)) + " |")
    return "\n".join(lines)


def fact_cells(found: Sequence[Mapping[str, Any]], subset: str) -> list[str]:
    """One row of :func:`facts`."""
    run = found[0]["run"]
    seconds = [one["run"]["tuning_seconds"] for one in found if "tuning_seconds" in one["run"]]
    noise = [one["noise"][NOISE][subset] for one in found if subset in one.get("noise", {}).get(NOISE, {})]
    shares, verdicts = [], []
    for one in found:
        scores = one.get("contribution", {}).get("subsets", {}).get(subset, {}).get("log_prob")
        if scores is not None and scores["share_interval"] is not None and scores["shares"]["visual"] is not None:
            shares.append(scores["shares"]["visual"])
            verdicts.append(scores["verdict"].replace("_", " "))
    return [
        f"{run['trainable_parameters']:,}" if "trainable_parameters" in run else "0",
        f"{mean(seconds):.0f}" if seconds else "–",
        f"{100 * mean(noise):.1f}" if noise else "–",
        f"{100 * mean(shares):.0f} %" if shares else "–",
        ", ".join(dict.fromkeys(verdicts)) or "–",
    ]


def compression_table(runs: Mapping[float, Sequence[Path]]) -> str:
    """Share of the tokens that is left, and accuracies by subset; means over seeds."""
    shown = ("consistent", "video_aligned", "audio_aligned", "contextual")
    heads = ("keep per block", "tokens left (share)", *(name.replace("_", " ") for name in shown))
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    for keep, own in runs.items():
        found = [RunFiles(run).metrics for run in own]
        ratio = mean(one["model_figures"]["compression_ratio"] for one in found)
        means = [mean(one["subsets"][name]["accuracy"] for one in found) for name in shown]
        lines.append(f"| {keep:g} | {ratio:.3f} | " + " | ".join(f"{100 * value:.1f}" for value in means) + " |")
    return "\n".join(lines)


def write_part(study: Zoo, part: str, seeds: Sequence[int], omni: Sequence[str]) -> None:
    """The page of a part."""
    rows = {name: finished([study.model(part, name, seed) for seed in seeds]) for name in names_of(PARTS[part])}
    extra: dict[str, list[Path]] = {}
    if part == "labels":
        extra = {"zero-shot": [study.bare_omni()]}
        extra |= {name: finished([study.omni(name, seed) for seed in seeds]) for name in omni}
    benchmark = collect([run for runs in (*extra.values(), *rows.values()) for run in runs], [])
    pairs = [(name, REFERENCE) for name in rows if name != REFERENCE and "+" not in name]
    pairs += [(f"{name}+dropout", name) for name in rows if f"{name}+dropout" in rows]
    page = ROOT / "docs" / "tables" / f"zoo-{part}.md"
    print(
        write_page(
            page,
            markdown(table(benchmark)),
            markdown(differences(benchmark, pairs)),
            facts(extra | rows, PARTS[part].subset),
        )
    )


def write_compression(study: Zoo, seeds: Sequence[int]) -> None:
    """The page of DeepMSI's compression."""
    runs = {keep: finished([study.compressed(keep, seed) for seed in seeds]) for keep in KEEP}
    benchmark = collect([run for own in runs.values() for run in own], [])
    page = ROOT / "docs" / "tables" / "zoo-compression.md"
    shown = "![accuracy by the share of visual tokens that is left](../images/plots/compression.svg)"
    print(write_page(page, markdown(table(benchmark)), "", shown, compression_table(runs)))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=[*PARTS, "compression"], choices=[*PARTS, "compression"])
    parser.add_argument(
        "--omni", nargs="*", default=["lora", "mosear"], choices=list(OMNI), help="beside them (minutes each)"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    add_study_options(parser)
    parser.set_defaults(test_clips=300)
    args = parser.parse_args(argv)
    study = Zoo(args.out.resolve(), args.test_clips, [f"data_dir={args.data_dir.resolve()}"])
    for seed, part in itertools.product(args.seeds, args.parts):
        if part == "compression":
            for keep in KEEP:
                study.compressed(keep, seed)
            continue
        for name in names_of(PARTS[part]):
            study.model(part, name, seed)
        if part == "labels":
            study.bare_omni()
            for name in args.omni:
                study.omni(name, seed)
    if args.only_runs:
        return
    for part in args.parts:
        if part == "compression":
            write_compression(study, args.seeds)
        else:
            write_part(study, part, args.seeds, args.omni)


if __name__ == "__main__":
    main()
