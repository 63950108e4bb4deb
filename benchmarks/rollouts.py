"""Sampling groups of completions beside ``model.generate``, and where a GRPO step's time goes.

    python -m benchmarks.rollouts --clock cpu --threads 1

Ways, side by side on an embedded backbone with a LoRA, on the same clips. ``reasons``: completions of the base that
writes reasons, which end by themselves. ``equal``: every completion has T tokens.

* generate: ``model.generate(do_sample=True, num_return_sequences=G)``, which reads the prompt G times;
* raw: mosear's sampler on the same raw media: each prompt is encoded and read once, its KV cache is shared out;
* encoded: the same on media from the feature cache, as in training.

Then the parts of a step: rollout, scoring (policy, and reference), backward.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import peft
import torch
import transformers

from benchmarks.side_by_side import (
    add_options,
    check_options,
    cpu_seconds,
    medians,
    quartiles,
    ratios,
    run_cases,
    timed,
)
from benchmarks.training_step import Size, raw_batch
from mosear.backbones import load_backbone
from mosear.data.batches import split_samples, without_answer
from mosear.data.budget import MediaBudget
from mosear.data.datamodule import ClipDataModule
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, collate
from mosear.experts.lean_lora import lean
from mosear.inference.prompts import Prompts
from mosear.methods.grpo import GRPO
from mosear.methods.grpo.rewards import accuracy_reward
from mosear.methods.grpo.rollout import CachedRollout, RolloutRequest
from mosear.methods.omni_system import OmniSystem
from mosear.methods.processes import Part

WAYS = ("generate", "raw", "encoded")
PARTS = ("rollout", "policy", "reference", "backward")
BASES = {"reasons": "tiny-omni-reasons", "equal": "tiny-omni"}
HEAD = (
    "| completions | clips | G | tokens at most | mean tokens | generate (s) | raw: times faster "
    "| encoded: times faster | "
    + " | ".join(f"{part} (share)" for part in PARTS)
    + " |\n|"
    + "---|"
    + "---:|" * (7 + len(PARTS))
)
NEVER = -1


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison.

    Attributes:
        kind: of completions, see above.
        clips: prompts.
        group: G, completions of each.
        tokens: T at most.
    """

    kind: str
    clips: int
    group: int
    tokens: int


class Compared:
    """One model and one batch for all ways.

    Args:
        case: sizes.
        device: cpu or cuda.
    """

    def __init__(self, case: Case, device: str) -> None:
        self.case = case
        self.equal = case.kind == "equal"
        self.prompt = Prompt() if self.equal else Prompt(answer_format="rlvr")
        self.backbone = load_backbone(BASES[case.kind], dtype="fp32", device=device)
        targets = r"model\.language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
        lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets)
        self.network = lean(peft.get_peft_model(self.backbone.model, lora))
        whole = raw_batch(self.backbone, Size(clips=case.clips), self.prompt).to(device)
        prompts = [without_answer(each) for each in split_samples(whole)]
        tokenizer = self.backbone.processor.tokenizer
        self.pad_id = tokenizer.pad_token_id
        self.end_id = NEVER if self.equal else tokenizer.eos_token_id
        self.raw = collate(prompts, self.pad_id)
        self.whole = replace(whole, media=self.backbone.encode(whole.media))
        self.encoded = replace(self.raw, media=self.whole.media)
        self.network.eval()
        self.rollout = CachedRollout()
        self.rollout.backbone = self.backbone

    def way(self, name: str) -> Any:
        """Sample once."""
        if name != "generate":
            return self.sampled(self.raw if name == "raw" else self.encoded)
        with torch.no_grad():
            return self.backbone.model.generate(
                **self.raw.model_inputs(),
                do_sample=True,
                num_return_sequences=self.case.group,
                max_new_tokens=self.case.tokens,
                min_new_tokens=self.case.tokens if self.equal else None,
                eos_token_id=None if self.equal else self.end_id,
                top_k=0,
                pad_token_id=self.pad_id,
            )

    def sampled(self, batch: OmniBatch) -> Any:
        """By mosear's sampler."""
        return self.rollout(
            RolloutRequest(
                batch=batch,
                prompts=Prompts.of(self.backbone, batch),
                group_size=self.case.group,
                max_new_tokens=self.case.tokens,
                temperature=1.0,
                top_p=1.0,
                seeds=list(range(len(batch))),
                end_id=self.end_id,
                pad_id=self.pad_id,
            ),
        )

    def parts(self, rounds: int, now: Any) -> dict[str, list[float]]:
        """Seconds of each part of a training step, by round."""
        method = GRPO(
            group_size=self.case.group, max_new_tokens=self.case.tokens, rewards={"accuracy": accuracy_reward}
        )
        data = ClipDataModule(backbone=self.backbone, prompt=self.prompt, budget=MediaBudget())
        system = OmniSystem(self.backbone, self.network, data, method=method)
        method.setup(system)
        method._sampler.end_id = self.end_id
        system.on_train_epoch_start()
        found: dict[str, list[float]] = {part: [] for part in PARTS}

        def clocked(part: str, run: Any) -> Any:
            start = now()
            result = run()
            found[part].append(now() - start)
            return result

        for number in range(rounds):
            own = clocked("rollout", lambda number=number: method._drawn(Part.of_sampler(self.whole), number)[0])
            scores = clocked("policy", lambda own=own: method._scores(own))
            clocked("reference", lambda own=own: method._reference(own))
            clocked("backward", lambda scores=scores: scores.log_probs.sum().backward())
            self.network.zero_grad()
        self.network.eval()
        return found


def compare(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one case."""
    compared = Compared(case, args.device)
    for way in WAYS:
        compared.way(way)  # warm-up
    whole, ids = compared.way("generate"), compared.way("raw").ids
    if compared.equal:
        assert tuple(whole.shape) == (case.clips * case.group, compared.raw.input_ids.shape[1] + case.tokens)
        assert tuple(ids.shape) == (case.clips, case.group, case.tokens)
    seconds = timed(WAYS, compared.way, args.repeats, args)
    faster = {way: [1 / value for value in own] for way, own in ratios(seconds, "generate").items()}
    parts = compared.parts(max(3, args.repeats // 4), cpu_seconds if args.clock == "cpu" else time.perf_counter)
    total = sum(medians(parts).values())
    return {
        "case": asdict(case),
        "mean_tokens": float((ids != compared.pad_id).sum() / ids[..., 0].numel()),
        "n": len(seconds["generate"]),
        "seconds": medians(seconds),
        "faster": medians(faster),
        "faster_quartiles": quartiles(faster),
        "parts": medians(parts),
        "shares": {part: value / total for part, value in medians(parts).items()},
    }


def row(found: dict[str, Any]) -> str:
    """One line of the table."""
    case, quarter = found["case"], found["faster_quartiles"]
    faster = [f"{found['faster'][way]:.2f} [{quarter[way][0]:.2f}, {quarter[way][1]:.2f}]" for way in WAYS[1:]]
    shares = [f"{found['shares'][part]:.0%}" for part in PARTS]
    sizes = [case["kind"], case["clips"], case["group"], case["tokens"], f"{found['mean_tokens']:.0f}"]
    cells = [*sizes, f"{found['seconds']['generate']:.2f}", *faster, *shares]
    return "| " + " | ".join(map(str, cells)) + " |"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--kinds", nargs="+", default=list(BASES), choices=list(BASES), help="of completions")
    parser.add_argument("--clips", type=int, nargs="+", default=[4])
    parser.add_argument("--groups", type=int, nargs="+", default=[8])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 40])
    args = parser.parse_args(arguments)
    check_options(parser, args)
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case."""
    args = parsed(arguments)
    cases = [Case(k, c, g, t) for k in args.kinds for c in args.clips for g in args.groups for t in args.tokens]
    run_cases(args, cases, lambda case: compare(case, args), row, HEAD, [torch, transformers, peft])


if __name__ == "__main__":
    main()
