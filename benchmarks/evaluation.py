"""Answers by label scoring beside answers by generation, and who waits for data: ``python -m benchmarks.evaluation``.

``answers``: the embedded backbone answers synthetic test clips in three ways, batch by batch in rotating order:

* score: ``mosear.inference.scoring``, one pass over the prompt and one over all candidate labels;
* generate: ``mosear.inference.generation``, greedy, with the same encoded media (as from the feature cache);
* transformers: ``model.generate(do_sample=False)`` on processed media, which it encodes itself.

Generation stops at the end token (the answer is one word) or writes ``--written`` tokens, as answers in JSON or with a
reason do; scoring has one cost. Accuracy stands beside time; ratios are medians over batches.

``waiting``: ``Trainer.test`` over the same clips with the feature cache off, cold and warm, and the share of the time
that the model waited for data: for the first batch, in which worker processes start, and after it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.assembled import CACHES, add_run_options, assembled, random_checkpoint
from benchmarks.side_by_side import add_options, check_options, medians, quartiles, ratios, run_cases, timed
from mosear.callbacks import Throughput
from mosear.data.sample import OmniBatch
from mosear.inference.generation import generate
from mosear.inference.parsing import parse_answer
from mosear.inference.scoring import label_log_probs
from mosear.methods.omni_system import OmniSystem, gold_label
from mosear.runtime.assemble import Assembly

PARTS = ("answers", "waiting")
WAYS = ("score", "generate", "transformers")


def evaluation(args: argparse.Namespace, run_dir: Path, *overrides: str) -> tuple[Assembly, OmniSystem]:
    """What ``eval.py`` would run on the bare backbone."""
    options = [
        f"backbone={args.backbone}", "answering.readings=false", f"data.eval_batch_size={args.batch}",
        f"trainer.limit_test_batches={args.batches}", *(["data.prepare=null"] if args.prepared else []), *overrides,
    ]  # fmt: skip
    return assembled("eval", args, run_dir, options, args.checkpoint)


Both = tuple[OmniBatch, OmniBatch]
"""A batch with processed media, and with encoded media."""


def both_kinds(system: OmniSystem, number: int) -> Iterator[Both]:
    """The first batches of the test."""
    for index, batch in enumerate(system.data.test_dataloader()):
        if index == number:
            return
        yield batch.data, replace(batch.data, media=system.backbone.encode(batch.data.media))


class Ways:
    """The ways to answer a batch.

    Args:
        system: backbone and prompt.
        written: tokens that generation must write; 0 = until the end token.
    """

    def __init__(self, system: OmniSystem, written: int) -> None:
        self.backbone, self.labels, self.trie = system.backbone, system.labels, system.trie
        self.tokenizer = system.backbone.processor.tokenizer
        self.tokens = written or system.answering.max_new_tokens
        # A token that is never written keeps both at it; what comes after the true end token is cut off.
        self.end_id = len(self.tokenizer) - 1 if written else self.tokenizer.eos_token_id

    @torch.no_grad()
    def score(self, both: Both) -> list[str | None]:
        """The most likely label of each clip."""
        best = label_log_probs(self.backbone, both[1], self.trie).argmax(-1)
        return [self.labels[index] for index in best.tolist()]

    def generate(self, both: Both) -> list[str | None]:
        """The label that was written for each clip, or None."""
        pad_id = self.tokenizer.pad_token_id
        options = {"max_new_tokens": self.tokens, "end_id": self.end_id, "pad_id": pad_id}
        return self._read(generate(self.backbone, both[1], **options).ids)

    def transformers(self, both: Both) -> list[str | None]:
        """The same, by the library."""
        inputs = both[0].model_inputs()
        options = {"eos_token_id": self.end_id, "pad_token_id": self.tokenizer.pad_token_id, "do_sample": False}
        ids = self.backbone.model.generate(**inputs, max_new_tokens=self.tokens, **options)
        return self._read(ids[:, inputs["input_ids"].shape[1] :])

    def _read(self, ids: Tensor) -> list[str | None]:
        ended = (ids == self.tokenizer.eos_token_id).cumsum(dim=1) > 0
        texts = self.tokenizer.batch_decode(
            ids.masked_fill(ended, self.tokenizer.pad_token_id), skip_special_tokens=True
        )
        return [parse_answer(text, self.labels).label for text in texts]


def answers(args: argparse.Namespace, written: int) -> dict[str, Any]:
    """Times and accuracies of both ways."""
    with TemporaryDirectory() as run_dir:
        _, system = evaluation(args, Path(run_dir), "data.cache_dir=null")
        system.eval()
        batches = list(both_kinds(system, args.batches))
    ways = Ways(system, written)
    found: dict[str, list[str | None]] = {way: [] for way in WAYS}
    truth = [gold_label(clip) for raw, _ in batches for clip in raw.clips]
    for way in WAYS:  # untimed: the warm-up, and what they answer
        for batch in batches:
            found[way] += getattr(ways, way)(batch)
    current: list[Both] = []

    def choose(number: int) -> None:
        current[:] = [batches[number % len(batches)]]

    seconds = timed(WAYS, lambda way: getattr(ways, way)(current[0]), args.repeats, args, before_round=choose)
    same = sum(one == other for one, other in zip(found["score"], found["generate"], strict=True))
    relative = ratios(seconds, "score")
    return {
        "written": written,
        "clips": len(truth),
        "n": len(seconds["score"]),
        "accuracy": {way: sum(a == b for a, b in zip(found[way], truth, strict=True)) / len(truth) for way in WAYS},
        "unread": found["generate"].count(None),
        "agreement": same / len(truth),
        "seconds": medians(seconds),
        "time_ratio": medians(relative),
        "time_quartiles": quartiles(relative),
    }


def answers_row(found: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [
        str(found["written"] or "until the end token"),
        f"{found['clips']:,}",
        str(found["n"]),
        *(f"{100 * found['accuracy'][way]:.1f} %" for way in WAYS[:2]),
        str(found["unread"]),
        f"{100 * found['agreement']:.1f} %",
    ]
    for way in WAYS[1:]:
        low, high = found["time_quartiles"][way]
        cells.append(f"{found['time_ratio'][way]:.2f} ({low:.2f}-{high:.2f})")
    return f"| {' | '.join(cells)} |"


ANSWERS_HEAD = (
    "| tokens written | clips | n | accuracy, score | accuracy, generate | not read | same answer "
    "| time, generate / score | time, transformers / score |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


class Waits(Throughput):
    """Tells the wait for the first batch, in which worker processes start, from later ones."""

    first = 0.0

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *rest: Any) -> None:
        """As its parent's."""
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, *rest)
        if batch_idx == 0:
            self.first = self.tested.waited

    def shares(self) -> dict[str, float]:
        """Of all the time."""
        later = self.tested.waited - self.first
        return {"first_wait_seconds": self.first, "later_wait_share": later / (self.tested.seconds - self.first)}


def waiting(args: argparse.Namespace, cache: str, directory: Path) -> dict[str, Any]:
    """Rates of a test; the cold one fills the directory, the warm one reads it."""
    where = "null" if cache == "off" else str(directory)
    with TemporaryDirectory() as run_dir:
        parts, system = evaluation(args, Path(run_dir), f"data.cache_dir={where}")
        throughput = Waits()
        parts.trainer.callbacks.append(throughput)  # type: ignore[attr-defined]
        parts.trainer.test(system, datamodule=system.data, verbose=False)
    return {"cache": cache, "clips": throughput.tested.clips, **throughput.tested.rates(), **throughput.shares()}


def waiting_row(found: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [found["cache"], f"{found['clips']:,}", f"{found['clips_per_second']:.1f}"]
    cells += [f"{100 * found['data_wait_share']:.1f} %", f"{found['first_wait_seconds']:.1f} s"]
    return f"| {' | '.join(cells)} | {100 * found['later_wait_share']:.1f} % |"


WAITING_HEAD = (
    "| feature cache | clips | clips / s | waited in all | for the first batch | after it |\n"
    "|---|---:|---:|---:|---:|---:|"
)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--backbone", default="tiny_omni", help="as in conf/backbone")
    add_run_options(parser, workers="processes that decode")
    parser.add_argument("--written", nargs="+", type=int, default=[0, 8, 32], help="tokens; 0: until the end token")
    parser.add_argument("--batch", type=int, default=50, help="clips")
    parser.add_argument("--batches", type=int, default=20)
    add_options(parser, rounds="timed batches of each way")
    args = parser.parse_args(argv)
    check_options(parser, args)
    if min(args.batch, args.batches) < 1 or min(args.written) < 0:
        parser.error("--batch and --batches must be at least 1, --written at least 0.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    args = parsed(argv)
    libraries = (torch, transformers)
    with TemporaryDirectory() as directory, random_checkpoint(args.size) as args.checkpoint:
        cache = Path(directory) / "cache"
        if "answers" in args.parts:
            run_cases(args, args.written, lambda tokens: answers(args, tokens), answers_row, ANSWERS_HEAD, libraries)
        if "waiting" in args.parts:
            run_cases(args, CACHES, lambda name: waiting(args, name, cache), waiting_row, WAITING_HEAD, libraries)


if __name__ == "__main__":
    main()
