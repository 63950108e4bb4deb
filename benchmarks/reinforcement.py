"""What reinforcement learning adds to tuning: ``python -m benchmarks.reinforcement --seeds 0 1 2``.

Every row trains a LoRA adapter of one size on the same embedded backbone, which can write reasons, and sees as many
clips: two epochs, of which the cold start before GRPO takes one. Rows that write reasons are tested on what they write,
the others by label scores. ``ood`` are clips in another style than all of training. A finished run is not repeated, and
several calls may share the work (``--only-runs``). The table is written to docs/tables/reinforcement.md.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.options import ROOT
from benchmarks.results import Study, add_study_options, changed
from benchmarks.table_page import write_page
from mosear.evaluation.aggregate import collect, differences, markdown, table
from mosear.evaluation.runs import METRICS

BACKBONE = "backbone=tiny_omni_reasons"
WORDS = ["+experiment=lora", BACKBONE, "trainer.max_epochs=2", "keep_adapter=last", "data.batch_size=16"]
SFT_RATE, RL_RATE = "tuning.learning_rate=4e-3", "tuning.learning_rate=1e-3"
WRITTEN = [
    "data.prompt.answer_format=rlvr", "data.val=null", "answering.method=generate", "answering.max_new_tokens=40",
]  # fmt: skip
R1 = ["+experiment=r1_omni", "cold_start=null", "trainer.max_epochs=1", RL_RATE]
RL = ["method=grpo", "method.max_new_tokens=4", RL_RATE]
ARMS: dict[str, list[str]] = {
    "sft_labels": [*WORDS, SFT_RATE],
    "sft_reasons": [*WORDS, *WRITTEN, SFT_RATE],
    "cold_start": [*WORDS, *WRITTEN, SFT_RATE, "trainer.max_epochs=1"],
    "grpo": [*R1, "method.rewards.evidence=null"],
    "grpo_evidence": R1,
    "grpo_words": [*WORDS, *RL],
    "exact_words": [*WORDS, *RL, "method.estimator=exact"],
}
"""What each row trains: labels; reasons and labels, for all clips and for half; GRPO after that half, with rewards for
label and form, and for named cues as well; GRPO and the exact estimator on answers of one word."""
EXTRA = {
    "grpo_mixed": [*R1, "method.mixed_rate=0.5"],
    "grpo_masked_kl": [*R1, "method.masked_kl=0.01"],
    "grpo_dropped": [*R1, "method.dropped_share=0.25"],
    "grpo_deciding": [*R1, "+method.rewards.evidence.deciding=true"],
}
"""One change each to ``grpo_evidence``."""
ALL = ARMS | EXTRA
BEHIND_COLD_START = ("grpo", "grpo_evidence", *EXTRA)
PAIRS = (
    ("sft_reasons", "sft_labels"),
    *(("grpo", other) for other in ("cold_start", "sft_reasons", "sft_labels", "grpo_words", "grpo_evidence")),
    ("grpo_words", "sft_labels"),
    ("exact_words", "grpo_words"),
    ("exact_words", "sft_labels"),
    *((name, "grpo_evidence") for name in EXTRA),
)


class Reinforcement(Study):
    """Rows of the table."""

    def sizes(self) -> list[str]:
        """As many clips of another style as of each other subset."""
        return [*super().sizes(), f"data.prepare.ood_clips={self.test_clips}"]

    def without_adapter(self, options: Sequence[str] = ()) -> Path:
        """The backbone as it is, by label scores."""
        own = [BACKBONE, "answering.readings=false", "report.examples=0", *options]
        return self.run(self.out / f"reinforcement-n{self.test_clips}" / "bare", "eval.py", own)

    def target(self, name: str, seed: int) -> Path:
        """The directory of a row and seed."""
        return self.out / f"reinforcement-n{self.test_clips}" / f"{name}-{seed}"

    def arm(self, name: str, seed: int, options: Sequence[str] = ()) -> Path:
        """A row of one seed."""
        target = self.target(name, seed)
        fixed = [f"name={name}", f"seed={seed}", "zero_shot=false", "answering.readings=false", "logger=csv"]
        if name in BEHIND_COLD_START:
            fixed.append(f"init_from={self.arm('cold_start', seed, options)}")
        return self.run(target, "train.py", changed([*ALL[name], *fixed], options))


def curves(run: Path, names: Sequence[str], parts: int = 5) -> dict[str, list[float]]:
    """Means of logged values over equal parts of a training."""
    with (run / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for name in names:
        values = [float(row[f"train/{name}"]) for row in rows if row.get(f"train/{name}")]
        size = max(1, len(values) // parts)
        found[name] = [mean(values[i : i + size]) for i in range(0, size * parts, size) if values[i : i + size]]
    return found


def finished(study: Reinforcement, seeds: Sequence[int]) -> dict[str, list[Path]]:
    """Runs by row, for the rows of which there is one."""
    found = {name: [study.target(name, seed) for seed in seeds] for name in ALL}
    return {name: done for name, own in found.items() if (done := [run for run in own if (run / METRICS).is_file()])}


def curve_table(runs: Mapping[str, Sequence[Path]]) -> str:
    """Rewards, length and entropy over the fifths of each reinforcement learning, means over seeds."""
    names = ("reward/accuracy", "reward/format", "reward/evidence", "length", "entropy", "kl", "zero_variance")
    lines = [
        "Means over five equal parts of each training with GRPO:",
        "",
        "| run | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for arm, own_runs in runs.items():
        if not arm.startswith("grpo"):
            continue
        own = [curves(run, names) for run in own_runs]
        cells = []
        for name in names:
            series = [one[name] for one in own if one[name]]
            cells.append(" ".join(f"{mean(values):.2f}" for values in zip(*series, strict=True)) if series else "")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_tables(study: Reinforcement, seeds: Sequence[int]) -> str:
    """The page of all rows."""
    rows = finished(study, seeds)
    benchmark = collect([study.without_adapter(), *(run for runs in rows.values() for run in runs)], [])
    pairs = [pair for pair in PAIRS if set(pair) <= set(benchmark.systems)]
    page = ROOT / "docs" / "tables" / "reinforcement.md"
    return write_page(page, markdown(table(benchmark)), markdown(differences(benchmark, pairs)), curve_table(rows))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ALL))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    add_study_options(parser)
    args = parser.parse_args(argv)
    study = Reinforcement(args.out.resolve(), args.test_clips)
    where = [f"data_dir={args.data_dir.resolve()}"]
    study.without_adapter(where)
    for seed in args.seeds:
        for name in args.arms:
            study.arm(name, seed, where)
    if not args.only_runs:
        print(write_tables(study, args.seeds))


if __name__ == "__main__":
    main()
