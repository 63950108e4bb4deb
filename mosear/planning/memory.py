"""Memory that a run will take on each GPU, before anything is downloaded.

    python -m mosear.planning.memory +experiment=mosear_7b trainer=zero2
    python -m mosear.planning.memory +experiment=mosear_7b data.budget.num_frames=64 --tokens 8192 --gpus 4

The arguments are those of ``train.py``. Sizes come from the backbone's ``config.json``, or from those that are shipped
for the published checkpoints; no weights are read. docs/memory.md explains each row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from mosear.backbones.families import family_of
from mosear.backbones.families.base import OmniFamily
from mosear.backbones.loading import DTYPES, recompute_layers
from mosear.backbones.published import known_config
from mosear.config.shipped import CONF
from mosear.methods.answer_tuning import AnswerTuning
from mosear.methods.base import Method
from mosear.methods.step_trace import StepTrace
from mosear.planning.clip import LongestClip, MediaBytes, longest_clip, media_bytes, processor_of
from mosear.planning.plan import CARDS, FLOAT32, PLANS, Plan, Weights, plan_of, static_bytes, usable
from mosear.planning.trace import Traced, fake, trace_evaluation, trace_training

ASSUMED_GPUS = 8


@dataclass(frozen=True)
class Estimate:
    """What a run needs.

    Attributes:
        cfg: its config.
        plan: of its trainer.
        processes: that share what the plan spreads.
        weights: sizes of the model.
        clip: the longest one.
        passes: clips of a training step, by kind of pass.
        tokens: of each clip in the estimate.
        media: of one clip.
        training: activations of a training step.
        evaluation: activations while labels are scored.
        copies: of the weights that train, which the method holds.
    """

    cfg: DictConfig
    plan: Plan
    processes: int
    weights: Weights
    clip: LongestClip
    passes: Mapping[str, int]
    tokens: int
    media: MediaBytes
    training: Traced
    evaluation: Traced
    copies: int = 0

    def possible(self, plan: Plan) -> bool:
        """4-bit weights cannot be partitioned."""
        return not (plan.stage == 3 and self.cfg.backbone.quantization == "nf4")

    def rows(self, plan: Plan | None = None) -> dict[str, int]:
        """Bytes per process by component; their sum is the peak."""
        plan = plan or self.plan
        found = static_bytes(self.weights, plan, self.processes)
        clips = max(sum(self.passes.values()), self.cfg.data.eval_batch_size)
        if self.copies:
            found["copies of the adapter"] = self.copies * FLOAT32 * self.weights.trainable
        found["media"] = clips * (self.media.inputs + self.media.features)
        found["activations"] = self.activations(plan)
        return found

    def activations(self, plan: Plan) -> int:
        """The largest of: a training step, scoring, encoding a clip, the optimiser's own temporaries."""
        unpacking = self.weights.largest if self.cfg.backbone.quantization == "nf4" else 0
        stepping = FLOAT32 * self.weights.trainable // (self.processes if plan.stage else 1)
        passes = max(self.training.activations, self.evaluation.activations) + unpacking
        return max(passes, self.media.towers, stepping)

    def total(self, plan: Plan | None = None) -> int:
        """Bytes per process at the peak."""
        return sum(self.rows(plan).values())

    def fits(self, card: int, plan: Plan | None = None) -> bool:
        """Whether a card of so many GiB is enough."""
        return self.possible(plan or self.plan) and self.total(plan) <= usable(card)


def estimate(cfg: DictConfig, *, gpus: int | None = None, tokens: int | None = None) -> Estimate:
    """Plan a composed config.

    Args:
        cfg: of ``train.py`` (or of ``eval.py``, whose step is the evaluation alone).
        gpus: processes; ``None`` = as configured or launched, and 8 where that says nothing.
        tokens: length of every sequence instead of what the budgets admit.

    Raises:
        ValueError: if nothing says how large the backbone is.
    """
    node = cfg.backbone
    raw = known_config(node.name, node.get("revision"))
    family_class = family_of(raw.get("model_type"))
    dtype = DTYPES[node.dtype]
    model, family = planned_model(cfg, raw, family_class)
    method: Method = instantiate(cfg.method, _convert_="all") if cfg.get("method") is not None else AnswerTuning()
    processor = processor_of(node.name, family_class, family.config, node.get("revision"))
    clip = longest_clip(cfg, processor, written=method.learns_written)
    weights = Weights.of(model, family, node.quantization)
    length = tokens or clip.tokens
    training, evaluation = traced(model, family, cfg, clip, length, method)
    plan = plan_of(cfg.trainer)
    return Estimate(
        cfg=cfg,
        plan=plan,
        processes=gpus or processes_of(cfg.trainer),
        weights=weights,
        clip=clip,
        passes=method.clips_of_step(cfg.data.batch_size),
        tokens=length,
        media=media_bytes(family, clip, dtype),
        training=training,
        evaluation=evaluation,
        copies=method.weight_copies(),
    )


def planned_model(cfg: DictConfig, raw: dict[str, Any], family_class: type[OmniFamily]) -> tuple[Any, OmniFamily]:
    """The frozen backbone with its adapter on the meta device."""
    from peft import get_peft_model

    import mosear.experts  # noqa: F401 - makes PEFT know MoSE

    model_class: Any = family_class.model_class()
    config = model_class.config_class(
        **{key: value for key, value in raw.items() if key not in ("dtype", "torch_dtype")}
    )
    with torch.device("meta"):
        model = model_class._from_config(config, attn_implementation=cfg.backbone.attn_implementation)
        model.to(DTYPES[cfg.backbone.dtype]).requires_grad_(False)
        if cfg.get("adapter") is not None:
            get_peft_model(model, instantiate(cfg.adapter, _convert_="all"))
    family = family_class(model.config)
    if cfg.backbone.get("gradient_checkpointing"):
        recompute_layers(model.get_submodule(family.language_model_path))
    return model, family


def traced(
    model: Any, family: OmniFamily, cfg: DictConfig, clip: LongestClip, tokens: int, method: Method
) -> tuple[Traced, Traced]:
    """Run a training and an evaluation step on fake tensors; the model is left with fake weights."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    decoder: Any = model.get_submodule(family.language_model_path)
    step = StepTrace(model, decoder, cfg.data.batch_size, tokens, clip.answer, clip.nodes)
    autocast = "bf16-mixed" in str(cfg.trainer.get("precision", ""))
    has_adapter = any(parameter.requires_grad for parameter in model.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake(model)
        model.eval()
        scored = trace_evaluation(replace(step, clips=cfg.data.eval_batch_size), autocast=autocast)
        decoder.train()
        if not has_adapter:
            return Traced(0, 0), scored
        return trace_training(step, method.memory_step, autocast=autocast), scored


def processes_of(trainer: DictConfig) -> int:
    """Processes of a run: as launched, as configured, or what this machine has."""
    from mosear.torchrun import launched_world

    if (world := launched_world()) > 1:
        return world
    devices = trainer.get("devices", 1)
    nodes = int(trainer.get("num_nodes", 1))
    if isinstance(devices, int) and devices > 0:
        return devices * nodes if devices * nodes > 1 or plan_of(trainer).name == "gpu" else ASSUMED_GPUS
    return max(1, torch.cuda.device_count() or ASSUMED_GPUS) * nodes


def table(found: Estimate) -> str:
    """The estimate of the chosen trainer, and which trainer fits which card."""
    plans = [plan for plan in PLANS if found.possible(plan)]
    spread = found.processes if found.processes > 1 else ASSUMED_GPUS
    columns = {plan.name: replace(found, processes=spread if plan.spread else 1).rows(plan) for plan in plans}
    names = list(next(iter(columns.values())))
    width = max(map(len, (*names, "fits 141 GB"))) + 2
    lines = ["GiB per GPU".ljust(width) + "".join(_heading(found, plan).rjust(15) for plan in plans)]
    for name in names:
        lines.append(name.ljust(width) + "".join(f"{rows[name] / 2**30:15.2f}" for rows in columns.values()))
    totals = {name: sum(rows.values()) for name, rows in columns.items()}
    lines.append("total".ljust(width) + "".join(f"{value / 2**30:15.2f}" for value in totals.values()))
    for card in CARDS:
        marks = ["yes" if value <= usable(card) else "no" for value in totals.values()]
        lines.append(f"fits {card} GB".ljust(width) + "".join(mark.rjust(15) for mark in marks))
    notes = [
        f"Trainers that spread are shown on {spread} GPUs; * is the config's own (on {found.processes}).",
        f"Activations: training step {_gib(found.training.activations)} (logits and loss "
        f"{_gib(found.training.logits)}), scoring {_gib(found.evaluation.activations)}, encoding a clip "
        f"{_gib(found.media.towers)}.",
    ]
    return "\n".join(lines + notes)


def headline(found: Estimate) -> str:
    """What is estimated, in three lines."""
    cfg, weights, clip = found.cfg, found.weights, found.clip
    length = f"longest clip: {clip.visual} visual + {clip.audio} audio + {clip.text} text = {clip.wanted} tokens"
    if clip.wanted > clip.max_tokens:
        length += f"; above data.max_tokens={clip.max_tokens}, so such clips are refused by name"
    if found.tokens != clip.tokens:
        length += f"; estimated for {found.tokens}"
    parts = " and ".join(
        f"{count} {'' if kind == 'clips' else f'{kind} '}{'clips' if kind == 'clips' else 'ones'}"
        for kind, count in found.passes.items()
        if count
    )
    layers = "recomputed in backward" if cfg.backbone.get("gradient_checkpointing") else "kept for backward"
    quantised = f", {cfg.backbone.quantization} decoder" if cfg.backbone.quantization else ""
    return (
        f"backbone: {cfg.backbone.name}, {weights.frozen / 1e9:.2f} B parameters ({cfg.backbone.dtype}{quantised}), "
        f"adapter {weights.trainable / 1e6:.2f} M\n{length}\n"
        f"step and process: {parts} of {found.tokens} tokens; decoder layers {layers}"
    )


def compose_train(overrides: Sequence[str]) -> DictConfig:
    """The config that ``train.py`` would have with these arguments."""
    from hydra import compose, initialize_config_dir

    from mosear.resolvers import register_resolvers

    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["run_dir=.", *overrides])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    parser = argparse.ArgumentParser(
        prog="mosear memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, help="processes (default: the config's, else 8)")
    parser.add_argument("--tokens", type=int, help="length of every sequence instead of what the budgets admit")
    args, overrides = parser.parse_known_args(arguments)
    try:
        found = estimate(compose_train(overrides), gpus=args.gpus, tokens=args.tokens)
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        sys.exit(str(error))
    print(f"{headline(found)}\n\n{table(found)}")


def _heading(found: Estimate, plan: Plan) -> str:
    return f"*{plan.name}" if plan == found.plan else plan.name


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()
