"""What MoSE costs beside one LoRA of the same total rank: ``python -m benchmarks.experts``.

Three ways, side by side in one process, each forward and backward with an input that needs a gradient:

* lora: PEFT's LoRA of rank 3 r;
* mose: ``mosear.experts``, three groups of rank r (as many weights, and a gate per decoder layer);
* loop: the same experts as three masked LoRAs, one after the other in a Python loop.

Three parts: ``layer``, one frozen linear layer (the gate's weights are given; in a model one gate serves seven of
them); ``decoder``, one whole decoder layer of Qwen2.5-Omni-7B's size with its gate; ``step``, a training step of
tiny-omni on 32 clips with encoded media, optimiser included.

Time: the ways alternate, in rotating order, after a warm-up of each; ratios are medians over rounds. Memory: what
autograd saves between forward and backward, and the peak above weights and inputs. Mose and loop must agree first.

The defaults take hours on a CPU; ``--quick`` ends within minutes. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import peft
import torch
import transformers
from peft.tuners.tuners_utils import cast_adapter_dtype
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.side_by_side import (
    add_options,
    check_options,
    medians,
    peak_bytes,
    quartiles,
    ratios,
    run_cases,
    timed,
)
from benchmarks.thinkers import random_thinker
from benchmarks.training_step import Size, TrainingStep, raw_batch, trainable
from mosear.backbones import load_backbone
from mosear.backbones.families import family_of
from mosear.backbones.sequences import sequence_state
from mosear.experts import MoSEConfig
from mosear.experts.layer import LayerSlot, MoSELinear
from mosear.experts.passes import ForwardPass
from mosear.roles import TokenRole

WAYS = ("lora", "mose", "loop")
PARTS = ("layer", "decoder", "step")
QUICK = {"tokens": [512], "shapes": [(3584, 3584)], "ranks": [4], "repeats": 5, "clips": 8, "parts": ["layer", "step"]}


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison.

    Attributes:
        part: one of ``PARTS``.
        dtype: of frozen weights and input; ``mixed`` is bfloat16 under autocast. PEFT keeps adapters in float32.
        rank: r of a group; LoRA gets 3 r.
        tokens: of ``layer`` and ``decoder``, in sequences of at most 1,024.
        shape: in and out features of ``layer``.
        clips: of ``step``.
        device: cpu or cuda.
    """

    part: str
    dtype: str
    rank: int
    tokens: int = 0
    shape: tuple[int, int] = (0, 0)
    clips: int = 0
    device: str = "cpu"

    @property
    def title(self) -> str:
        """The first two cells of its row."""
        sizes = {"layer": "{} x {}".format(*self.shape), "decoder": "7B decoder layer", "step": "tiny-omni step"}
        return f"{sizes[self.part]} | {self.tokens or f'{self.clips} clips'}"

    def place(self) -> dict[str, Any]:
        """Device and floating type of weights and inputs."""
        return {"device": self.device, "dtype": torch.float32 if self.dtype == "float32" else torch.bfloat16}

    def precision(self) -> Any:
        """Context of a forward pass."""
        return torch.autocast(self.device, torch.bfloat16) if self.dtype == "mixed" else nullcontext()


Step = Callable[[str], list[Tensor]]
"""Runs one way forward and backward; returns what another way with the same weights must reproduce."""


class MaskedLoras(nn.Module):
    """The experts of a MoSE layer as three LoRAs, one after the other on every token, each masked afterwards."""

    def __init__(self, layer: MoSELinear) -> None:
        super().__init__()
        self.base_layer, self.slot, self.scaling = layer.base_layer, layer.slot, layer.settings["default"].scaling
        a, b = layer.mose_A["default"].detach(), layer.mose_B["default"].detach()
        self.a = nn.ParameterList(nn.Parameter(part.clone()) for part in a.chunk(3))
        self.b = nn.ParameterList(nn.Parameter(part.clone()) for part in b.chunk(3, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        result, current = self.base_layer(x), self.slot.current
        dtype = result.dtype
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.a[0].dtype)
        for group, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            share = 3 * current.weights[:, group, None, None] * current.whole.masks[..., group, None]
            result = result + F.linear(F.linear(x, a), b) * (self.scaling * share)
        return result.to(dtype)


def lora_config(rank: int, targets: list[str] | str) -> peft.LoraConfig:
    """Of the same total rank, and the same scaling."""
    return peft.LoraConfig(r=3 * rank, lora_alpha=6 * rank, target_modules=targets)


def adapt(model: nn.Module, way: str, rank: int) -> nn.Module:
    """A frozen thinker with one way's adapter; every adapter weight is random, since zeros would hide mistakes."""
    if way == "lora":
        return peft.get_peft_model(model, lora_config(rank, r".*language_model.*_proj"))
    network = peft.get_peft_model(model, MoSEConfig(r=rank, alpha=2 * rank))
    torch.manual_seed(0)
    for parameter in trainable(network):
        nn.init.normal_(parameter, std=0.02)
    if way == "loop":
        for name, layer in [(n, m) for n, m in network.named_modules() if isinstance(m, MoSELinear)]:
            network.set_submodule(name, MaskedLoras(layer))
    return network


def token_roles(case: Case) -> Tensor:
    """``[B, L]``: mostly pictures, some sound, a question."""
    length = min(case.tokens, 1024)
    roles = torch.full((case.tokens // length, length), int(TokenRole.TEXT), device=case.device)
    roles[:, : length * 7 // 8] = int(TokenRole.AUDIO)
    roles[:, : length * 5 // 8] = int(TokenRole.VISUAL)
    return roles


def layer_ways(case: Case) -> tuple[Step, dict[str, nn.Module]]:
    """One frozen linear layer; the three ways share its weight, the input and the gradient that arrives."""
    torch.manual_seed(0)
    base = nn.Linear(*case.shape, bias=False, **case.place()).requires_grad_(False)
    roles = token_roles(case)
    x = torch.randn(*roles.shape, case.shape[0], **case.place()).requires_grad_()
    arriving = torch.randn(*roles.shape, case.shape[1], **case.place())
    w = torch.rand(len(roles), 3, device=case.device).softmax(-1).requires_grad_()
    lora = peft.get_peft_model(nn.Sequential(base), lora_config(case.rank, ["0"]))
    layer = MoSELinear(base, LayerSlot(), "default", MoSEConfig(r=case.rank, alpha=2 * case.rank))
    cast_adapter_dtype(layer, "default")  # as PEFT does for a model
    nn.init.normal_(layer.mose_B["default"], std=0.02)
    networks = {"lora": lora, "mose": layer, "loop": MaskedLoras(layer)}

    def step(way: str) -> list[Tensor]:
        own = [] if way == "lora" else [w]
        with case.precision():
            if own:
                whole = ForwardPass.over_prompt(roles, torch.ones_like(roles), "default")
                layer.slot.current = whole.layer(w, case.rank, scaling=2.0)
            y = networks[way](x)
        gradients = torch.autograd.grad(y, [x, *own, *trainable(networks[way])], arriving)
        return [y.detach(), *gradients[: 1 + len(own)]]

    return step, networks


def decoder_ways(case: Case) -> tuple[Step, dict[str, nn.Module]]:
    """One decoder layer of the 7B model (random weights) between random states and a random gradient."""
    thinker = random_thinker(case.place(), num_hidden_layers=1)
    config = thinker.config
    path, roles = family_of(config.model_type).language_model_path, token_roles(case)
    positions = torch.arange(roles.shape[1], device=case.device).expand(3, *roles.shape)
    x = torch.randn(*roles.shape, config.text_config.hidden_size, **case.place()).requires_grad_()
    arriving, ones = torch.randn_like(x), torch.ones_like(roles)
    shared = {id(parameter): parameter for parameter in thinker.parameters()}  # copies keep these
    networks = {way: adapt(deepcopy(thinker, dict(shared)), way, case.rank).train() for way in WAYS}

    def step(way: str) -> list[Tensor]:
        decoder = networks[way].get_base_model().get_submodule(path)
        with case.precision(), sequence_state(networks[way], roles=roles, prompt_mask=ones):
            y = decoder(inputs_embeds=x, attention_mask=ones, position_ids=positions, use_cache=False)[0]
        return [y.detach(), torch.autograd.grad(y, [x, *trainable(networks[way])], arriving)[0]]

    return step, networks


def step_ways(case: Case) -> tuple[Step, dict[str, nn.Module]]:
    """A training step of tiny-omni: forward and loss as training has them, backward, clipping, AdamW."""
    backbone = load_backbone("tiny-omni", dtype="fp32" if case.dtype == "float32" else "bf16", device=case.device)
    raw = raw_batch(backbone, Size(case.clips))
    batch = replace(raw, media=backbone.encode(raw.media)).to(case.device)
    steps = {}
    for way in WAYS:
        own = replace(backbone, model=deepcopy(backbone.model))
        steps[way] = TrainingStep(own, adapt(own.model, way, case.rank), batch, case.precision)
    return lambda way: [steps[way]()], {way: step.network for way, step in steps.items()}


def check_equal(case: Case, step: Step, networks: dict[str, nn.Module]) -> None:
    """Mose and loop must compute the same, and LoRA have as many weights but for the gate; else ratios say nothing."""
    tolerance = 1e-4 if case.dtype == "float32" else 3e-2
    for ours, theirs in zip(step("mose"), step("loop"), strict=True):
        assert (ours.float() - theirs.float()).norm() <= tolerance * theirs.float().norm()
    numbers = {way: sum(parameter.numel() for parameter in trainable(networks[way])) for way in WAYS}
    gates = sum(value.numel() for name, value in networks["mose"].named_parameters() if "mose_W" in name)
    assert numbers["mose"] == numbers["loop"] == numbers["lora"] + gates, numbers


def saved_bytes(step: Step, way: str, network: nn.Module) -> int:
    """What autograd keeps between forward and backward, weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(way)
    return sum(size for pointer, size in kept.items() if pointer not in weights)


def compare(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Every measurement of a case."""
    step, networks = {"layer": layer_ways, "decoder": decoder_ways, "step": step_ways}[case.part](case)
    check_equal(case, step, networks)
    step("lora")
    seconds = timed(WAYS, step, args.repeats, args)
    relative = ratios(seconds, "lora")
    return {
        "case": asdict(case),
        "title": case.title,
        "n": len(seconds["lora"]),
        "seconds": medians(seconds),
        "time_ratio": medians(relative),
        "time_quartiles": quartiles(relative),
        "saved_mib": {way: saved_bytes(step, way, networks[way]) / 2**20 for way in WAYS},
        "peak_mib": {way: peak_bytes(case.device, step, way) / 2**20 for way in WAYS},
    }


HEAD = (
    "| | tokens | dtype | r | n | LoRA s | MoSE time (quartiles) | loop time | MoSE saved | loop saved | MoSE peak "
    "| loop peak |\n|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def row(found: dict[str, Any]) -> str:
    """One line of the table; every ratio is to LoRA."""
    case, (low, high) = found["case"], found["time_quartiles"]["mose"]
    cells = [f"{found['time_ratio']['mose']:.2f} ({low:.2f}-{high:.2f})", f"{found['time_ratio']['loop']:.2f}"]
    cells += [f"{found[key][way] / found[key]['lora']:.2f}" for key in ("saved_mib", "peak_mib") for way in WAYS[1:]]
    start = f"| {found['title']} | {case['dtype']} | {case['rank']} | {found['n']} | {found['seconds']['lora']:.3g} | "
    return start + " | ".join(cells) + " |"


def cases(args: argparse.Namespace) -> list[Case]:
    """All combinations that were asked for."""
    sizes = {
        "layer": [{"shape": shape, "tokens": n} for shape, n in itertools.product(args.shapes, args.tokens)],
        "decoder": [{"tokens": tokens} for tokens in args.tokens],
        "step": [{"clips": args.clips}],
    }
    every = [(part, size) for part in args.parts for size in sizes[part]]
    settings = itertools.product(every, args.dtypes, args.ranks)
    return [Case(part, dtype, rank, device=args.device, **size) for (part, size), dtype, rank in settings]


def shape(text: str) -> tuple[int, int]:
    """``3584x18944`` to numbers."""
    into, out = map(int, text.split("x"))
    return into, out


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 8192], help="of layer and decoder")
    parser.add_argument("--shapes", nargs="+", type=shape, default=[(3584, 3584), (3584, 18944)], metavar="INxOUT")
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 16], help="r of a group; LoRA gets 3 r")
    parser.add_argument(
        "--dtypes", nargs="+", choices=["float32", "bfloat16", "mixed"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--clips", type=int, default=32, help="of a training step")
    add_options(parser)
    parser.add_argument("--quick", action="store_true", help="other defaults: small cases, few rounds")
    if parser.parse_args(argv).quick:
        parser.set_defaults(**QUICK)
    args = parser.parse_args(argv)
    check_options(parser, args)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    args = parsed(argv)
    run_cases(args, cases(args), lambda case: compare(case, args), row, HEAD, (torch, transformers, peft))


if __name__ == "__main__":
    main()
