"""A 7B backbone with random weights on one GPU: ``make gpu-check`` (or ``python -m benchmarks.gpu_check``).

Writes a checkpoint with the published sizes of Qwen2.5-Omni-7B and random weights in bfloat16 (17 GB, sharded, kept in
``--dir``), loads it as any other, and measures with MoSE on every projection:

* training: a step on clips of 8 frames and 8 s of sound, in bf16 and NF4, with and without gradient checkpointing:
  tokens/s, FLOP utilisation (4 per frozen weight and token: forward and the gradient of the input; 6 with
  checkpointing) and peak memory;
* learning: loss of the first and last five of ``--steps`` steps on a few clips of the synthetic corpus;
* steering: greedy generation with attention reallocation beside the same without;
* kernels: which take most of a training step.

``--size tiny --device cpu`` runs all of it on any machine, and says nothing about speed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.side_by_side import peak_bytes, ratios, timed
from benchmarks.training_step import Size, TrainingStep, raw_batch
from mosear.backbones import OmniBackbone, load_backbone
from mosear.backbones.published import published_sizes
from mosear.data.sample import OmniBatch
from mosear.experts import MoSEConfig
from mosear.inference.generation import generate
from mosear.methods.optim import Tuning
from mosear.steering import AttentionReallocation, steer

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}
"""Dense bfloat16, by a part of the device's name."""
TINY_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY_TEXT |= {"num_key_value_heads": 2, "vocab_size": 2000}
NEW_TOKENS = 32


def random_checkpoint(directory: Path, size: str, device: str) -> Path:
    """Published sizes, random weights, and the embedded processor, whose token ids the config is given."""
    target = directory / f"random-{size}"
    if (target / "config.json").is_file():
        return target
    tiny = load_backbone("tiny-omni")
    sizes = published_sizes("Qwen/Qwen2.5-Omni-7B")
    assert sizes is not None
    ids = {key: value for key, value in tiny.model.config.to_dict().items() if key.endswith(("_index", "_token_id"))}
    if size == "tiny":
        sizes["text_config"] |= TINY_TEXT
        sizes["text_config"]["rope_parameters"]["mrope_section"] = [2, 3, 3]
        sizes["vision_config"] |= {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
        sizes["vision_config"] |= {"out_hidden_size": TINY_TEXT["hidden_size"], "fullatt_block_indexes": [0]}
        sizes["audio_config"] |= {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2}
        sizes["audio_config"] |= {"encoder_ffn_dim": 64, "output_dim": TINY_TEXT["hidden_size"]}
    model_class: Any = type(tiny.model)
    config = model_class.config_class(**{**sizes, **ids})
    torch.manual_seed(0)
    with torch.device(device):
        model = model_class._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(target, max_shard_size="5GB")
    tiny.processor.save_pretrained(target)
    return target


def training(backbone: OmniBackbone, batch: OmniBatch, device: str, learning_rate: float = 1e-3) -> Callable[[], float]:
    """A step of a loaded backbone with MoSE on one batch, media encoded in the step; returns its loss."""
    network = peft.get_peft_model(backbone.model, MoSEConfig(r=4, alpha=8))
    tuning = Tuning(learning_rate=learning_rate)
    step = TrainingStep(backbone, network, batch, lambda: torch.autocast(device, torch.bfloat16), tuning)

    def encode_and_train() -> float:
        step.batch = replace(batch, media=backbone.encode(batch.media))
        return float(step())

    return encode_and_train


@contextmanager
def loaded(checkpoint: Path, args: argparse.Namespace, quantization: str | None, recompute: bool) -> Iterator[Any]:
    """A backbone and a batch of long clips; the device's memory is free again afterwards."""
    backbone = load_backbone(
        str(checkpoint), dtype="bf16", device=args.device, quantization=quantization, gradient_checkpointing=recompute
    )
    yield backbone, raw_batch(backbone, Size(args.batch, args.frames, args.seconds)).to(args.device)
    del backbone
    if args.device == "cuda":
        torch.cuda.empty_cache()


def seconds_of(call: Callable[[], Any], args: argparse.Namespace) -> float:
    """Median over rounds, after one."""
    call()
    found = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        call()
        if args.device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def training_row(checkpoint: Path, args: argparse.Namespace, quantization: str | None, recompute: bool) -> str:
    """Speed and memory of a step."""
    with loaded(checkpoint, args, quantization, recompute) as (backbone, batch):
        step = training(backbone, batch, args.device)
        seconds = seconds_of(step, args)
        weights = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
        peak = weights + peak_bytes(args.device, lambda _: step(), "step")
        decoder = sum(layer.in_features * layer.out_features for layer in linears(backbone.language_model))
    tokens = int(batch.attention_mask.sum())
    name = torch.cuda.get_device_name() if args.device == "cuda" else ""
    flops = next((value for part, value in PEAK_FLOPS.items() if part in name), None)
    used = decoder * tokens * (6 if recompute else 4)
    utilisation = f"{100 * used / seconds / flops:.0f} %" if flops else "device unknown"
    cells = [quantization or "bf16", "yes" if recompute else "no", f"{tokens:,}", f"{seconds:.3g}"]
    cells += [f"{tokens / seconds:,.0f}", utilisation, f"{weights / 2**30:.1f}", f"{peak / 2**30:.1f}"]
    return f"| {' | '.join(cells)} |"


def linears(decoder: nn.Module) -> Iterator[Any]:
    """The decoder's frozen projections."""
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in ("base_layer", "lm_head"):
            yield module


def learning(checkpoint: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Mean loss of the first and of the last five steps over four batches of short clips."""
    with loaded(checkpoint, args, None, False) as (backbone, _):
        clips = raw_batch(backbone, Size(args.batch)).to(args.device)
        step = training(backbone, clips, args.device, learning_rate=5e-4)
        losses = [step() for _ in range(args.steps)]
    return statistics.mean(losses[:5]), statistics.mean(losses[-5:])


def steering(checkpoint: Path, args: argparse.Namespace) -> dict[str, float]:
    """Time of generation with attention reallocation, as a multiple of that without."""
    with loaded(checkpoint, args, None, False) as (backbone, batch), torch.no_grad():
        encoded = replace(batch, media=backbone.encode(batch.media))
        never = len(backbone.processor.tokenizer) - 1

        def answer(way: str) -> None:
            options = {"max_new_tokens": NEW_TOKENS, "end_id": never, "pad_id": 0}
            if way == "plain":
                generate(backbone, encoded, **options)
                return
            with steer(backbone, AttentionReallocation()):
                generate(backbone, encoded, **options)

        for way in ("plain", "steered"):
            answer(way)
        clock = argparse.Namespace(clock="wall", device=args.device, limit=float("inf"))
        seconds = timed(("plain", "steered"), answer, args.repeats, clock)
        plain = statistics.median(seconds["plain"])
        ratio = statistics.median(ratios(seconds, "plain")["steered"])
    return {"ratio": ratio, "tokens_per_second": NEW_TOKENS * args.batch / plain}


def kernels(checkpoint: Path, args: argparse.Namespace, top: int = 10) -> str:
    """What takes most of a training step."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if args.device == "cuda" else [])
    with loaded(checkpoint, args, None, False) as (backbone, batch):
        step = training(backbone, batch, args.device)
        step()
        with profile(activities=kinds) as recorded:
            step()
    order = "self_device_time_total" if args.device == "cuda" else "self_cpu_time_total"
    return recorded.key_averages().table(sort_by=order, row_limit=top, max_name_column_width=60)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dir", type=Path, default=Path("data") / "gpu-check", help="of the checkpoint; 17 GB")
    parser.add_argument("--batch", type=int, default=4, help="clips of a step")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=8, help="of a clip")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each kind")
    parser.add_argument("--steps", type=int, default=50, help="of the learning check")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("No GPU is here. --size tiny --device cpu runs the same code on any machine.", file=sys.stderr)
        return 1
    checkpoint = random_checkpoint(args.dir, args.size, args.device)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'}")
    print("| weights | checkpointing | tokens | s per step | tokens/s | MFU | weights GiB | peak GiB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for quantization in (None, "nf4"):
        for recompute in (False, True):
            print(training_row(checkpoint, args, quantization, recompute), flush=True)
    first, last = learning(checkpoint, args)
    print(f"\nLoss over {args.steps} steps: {first:.3f} -> {last:.3f}", flush=True)
    found = steering(checkpoint, args)
    print(f"Generation: {found['tokens_per_second']:.0f} tokens/s, steered takes {found['ratio']:.2f} x the time\n")
    print(kernels(checkpoint, args))
    return 0 if last < first else 1


if __name__ == "__main__":
    sys.exit(main())
