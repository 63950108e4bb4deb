"""What a step of the main job is made of: ``python -m benchmarks.step_profile --data-dir data``.

Conflict mixing with MoSE on the embedded backbone, batches of 32 training clips of the synthetic corpus, one torch
thread, CPU time, mean over steps after a warm-up. The parts are those that training runs; ``--tree DIR`` measures
another check-out of mosear in its place (a commit of before, with the same modules), so that two can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.options import ROOT, add_corpus_options

CLIPS = 32
PARTS = {
    "fetch": "clips to a batch, from the cache (first pass over the split)",
    "fetch again": "the same in later epochs",
    "recombine": "faces, voices and words of half of the batch to new prompts",
    "answers, forward": "16 untouched clips",
    "answers, backward": "",
    "teacher, first epoch": "single modalities of the mixed clips, read once per clip",
    "mixed, forward": "16 recombined clips",
    "mixed, backward": "",
    "optimiser": "AdamW",
    "test: labels": "a test batch of 32",
    "test: single modalities": "the same batch, three passes",
}


class Parts:
    """The parts of a step, one callable each, and the CPU time that they took.

    Args:
        data_dir: holds the corpus.
        cache_dir: for encoder outputs.
        steps: how many batches.
    """

    def __init__(self, data_dir: Path, cache_dir: Path, steps: int) -> None:
        import peft

        from mosear.backbones import load_backbone
        from mosear.data.datamodule import ClipDataModule
        from mosear.data.media import MediaBudget
        from mosear.data.prompt import Prompt
        from mosear.experts import MoSEConfig
        from mosear.methods.conflict_mixing import ConflictMixing
        from mosear.methods.conflict_mixing.mixer import ConflictMixer
        from mosear.methods.conflict_mixing.target import Scale
        from mosear.methods.omni_system import OmniSystem
        from mosear.methods.optim import Tuning, build_optimiser

        self.seconds: dict[str, list[float]] = defaultdict(list)
        backbone = load_backbone("tiny-omni", dtype="fp32")
        network = peft.get_peft_model(backbone.model, MoSEConfig(r=4, alpha=8, kl_weight=0.1))
        data = ClipDataModule(
            backbone=backbone,
            prompt=Prompt(),
            budget=MediaBudget(num_frames=8, max_pixels=12544),
            train=str(data_dir / "synthetic" / "train_natural.parquet"),
            cache_dir=str(cache_dir),
            num_workers=0,
            eval_batch_size=CLIPS,
            max_tokens=2048,
        )
        self.system = OmniSystem(backbone, network, data, method=ConflictMixing(visual_prior=0.5), tuning=Tuning())
        self.mixer = ConflictMixer(self.system.method, backbone, network, data.builder, self.system.trie)
        self.mixer.scales = {"visual": Scale(), "audio": Scale()}
        self.system.on_train_epoch_start()
        self.optimiser = build_optimiser(self.system.parameters(), self.system.tuning)
        self.dataset = data.dataset("train", with_answer=True)
        self.steps = steps

    def timed(self, part: str, run: Callable[[], Any]) -> Any:
        """What ``run`` returns."""
        start = time.process_time()
        found = run()
        self.seconds[part].append(time.process_time() - start)
        return found

    def batches(self) -> list[Any]:
        """The first clips of the split, as its loader would give them; once more where the split stays in memory."""
        from dataclasses import replace

        from mosear.data.dataset import Collator

        def fetch(step: int) -> Any:
            items = [self.dataset[index] for index in range(step * CLIPS, (step + 1) * CLIPS)]
            return Collator(self.system.builder.pad_id)(items)

        def encode(batch: Any) -> Any:
            resident = getattr(self.system.data, "resident", {}).get("train")
            return self.system.encoded(batch if resident is None else replace(batch, resident=resident))

        for step in range(self.steps):
            self.system.encoded(fetch(step))  # fills the cache
        found = [encode(self.timed("fetch", lambda step=step: fetch(step))) for step in range(self.steps)]
        for step in range(self.steps):
            self.timed("fetch again", lambda step=step: fetch(step))
        return found

    def step(self, batch: Any, number: int) -> None:
        """One step."""
        from mosear.methods.answer_tuning.method import answer_step

        mixed = self.timed("recombine", lambda: self.mixer.mix(batch, number))
        loss, _, _ = self.timed("answers, forward", lambda: answer_step(self.system, mixed.untouched, number))
        self.timed("answers, backward", loss.backward)
        self.mixer.teacher.known.clear()
        self.timed("teacher, first epoch", lambda: self.mixer.target_parts(mixed))
        step = self.timed("mixed, forward", lambda: self.mixer.step(mixed))
        self.timed("mixed, backward", step.loss.backward)
        self.timed("optimiser", lambda: (self.optimiser.step(), self.optimiser.zero_grad()))

    def test(self, batch: Any) -> None:
        """One batch of a test."""
        import torch

        from mosear.inference.unimodal import predictions_alone

        with torch.no_grad():
            self.timed("test: labels", lambda: self.system.answerer.label_log_probs(batch))
            backbone, trie = self.system.backbone, self.system.trie
            self.timed("test: single modalities", lambda: predictions_alone(backbone, batch, trie))


def measure(data_dir: Path, steps: int) -> dict[str, float]:
    """Mean CPU milliseconds by part."""
    import torch

    torch.set_num_threads(1)
    with TemporaryDirectory() as cache:
        parts = Parts(data_dir, Path(cache), steps)
        batches = parts.batches()
        for number, batch in enumerate(batches[:2]):  # a warm-up
            parts.step(batch, number)
        kept = {name: values for name, values in parts.seconds.items() if name.startswith("fetch")}
        parts.seconds = defaultdict(list, kept)
        for number, batch in enumerate(batches):
            parts.step(batch, number)
        parts.system.network.eval()
        for batch in batches:
            parts.test(batch)
    return {name: 1000 * sum(values) / len(values) for name, values in parts.seconds.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tree", type=Path, nargs="*", default=[], help="other check-outs, measured before this one")
    parser.add_argument("--raw", action="store_true", help="print JSON")
    add_corpus_options(parser)
    args = parser.parse_args(argv)
    if args.raw:
        print(json.dumps(measure(args.data_dir, args.steps)))
        return
    if not args.prepared:
        from mosear.data.synthetic.corpus import ensure_corpus

        ensure_corpus(args.data_dir / "synthetic", train_flavours=["natural"])
    found = []
    for tree in (*args.tree, ROOT):
        command = [sys.executable, str(Path(__file__)), "--raw", f"--steps={args.steps}"]
        environment = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{ROOT}"}
        done = subprocess.run(
            [*command, f"--data-dir={args.data_dir.resolve()}"], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{tree}:\n{done.stderr[-3000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"| part, ms of CPU | {' | '.join(str(tree) for tree in (*args.tree, 'this'))} | |")
    print(f"|---|{'---:|' * len(found)}---|")
    for part, note in PARTS.items():
        print(f"| {part} | {' | '.join(f'{own[part]:.0f}' for own in found)} | {note} |")


if __name__ == "__main__":
    main()
