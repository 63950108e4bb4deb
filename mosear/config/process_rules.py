"""Whether devices, processes and a strategy can work together, found before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig

from mosear.problems import Problem
from mosear.torchrun import launched_world

ZERO = "mosear.runtime.strategies.ZeroStrategy"


def zero_stage(cfg: DictConfig) -> int | None:
    """The ZeRO stage that a config asks for; ``None`` without DeepSpeed."""
    strategy = cfg.trainer.get("strategy")
    if isinstance(strategy, DictConfig):
        return int(strategy.get("stage", 2)) if strategy.get("_target_") == ZERO else None
    name, _, stage = str(strategy).partition("_stage_")
    if not name.startswith("deepspeed"):
        return None
    return int(stage[0]) if stage[:1].isdigit() else 2


def devices_are_there(cfg: DictConfig) -> Iterator[Problem]:
    """A GPU trainer needs GPUs, and as many processes as torchrun has started."""
    if cfg.get("dry_run"):  # plans for another machine
        return
    trainer = cfg.trainer
    devices, nodes, gpus = trainer.get("devices", 1), int(trainer.get("num_nodes", 1)), 0
    if trainer.get("accelerator") in ("gpu", "cuda"):
        import torch

        if (gpus := torch.cuda.device_count()) == 0:
            yield Problem(
                "trainer.accelerator", trainer.accelerator, "there is no GPU on this machine",
                "Use trainer=cpu; or, with several processes, trainer.accelerator=cpu trainer.devices=N "
                "trainer.precision=32-true.",
            )  # fmt: skip
            return
    wanted, world = _count(devices, gpus) * nodes, launched_world()
    if wanted == world:
        return
    if world == 1:
        yield Problem(
            "trainer.devices", devices, f"asks for {wanted} processes, but this is one on its own",
            f"Start with torchrun --nproc_per_node={wanted // nodes}{f' --nnodes={nodes}' if nodes > 1 else ''} "
            "train.py ..., or set trainer.devices=1.",
        )  # fmt: skip
    else:
        yield Problem(
            "trainer.devices", devices,
            f"torchrun started {world} processes (WORLD_SIZE), but devices x num_nodes = {wanted}",
            f"Set trainer.devices={world // nodes if world % nodes == 0 else world} (and trainer.num_nodes to the "
            "number of machines), with a trainer for several processes: trainer=ddp, zero1, zero2 or zero3.",
        )  # fmt: skip


def _count(devices: Any, gpus: int) -> int:
    """Processes per machine that ``trainer.devices`` means."""
    if str(devices) in ("auto", "-1"):
        return gpus or 1
    if isinstance(devices, int) or str(devices).isdigit():
        return int(devices)
    return len(str(devices).split(",")) if isinstance(devices, str) else len(devices)


def zero_fits(cfg: DictConfig) -> Iterator[Problem]:
    """ZeRO through our strategy, with what it can compute in and partition."""
    stage, strategy = zero_stage(cfg), cfg.trainer.get("strategy")
    if stage is None:
        return
    if not isinstance(strategy, DictConfig):
        yield Problem(
            "trainer.strategy", strategy,
            "Lightning's own DeepSpeed strategy removes the hooks of adapters and steering before it evaluates",
            f"Use trainer=zero{stage}.",
        )  # fmt: skip
    if find_spec("deepspeed") is None:
        yield Problem(
            "trainer.strategy", f"ZeRO-{stage}", "DeepSpeed is not installed",
            "Install it with pip install 'mosear[deepspeed]', or use trainer=ddp, which is faster for small adapters.",
        )  # fmt: skip
    if (precision := str(cfg.trainer.get("precision"))) not in ("32-true", "bf16-mixed", "32"):
        yield Problem(
            "trainer.precision", precision, "ZeRO trainers compute in float32 or with bfloat16 autocast",
            "Use trainer.precision=bf16-mixed (or 32-true).",
        )  # fmt: skip
    if stage == 3 and cfg.backbone.get("quantization") is not None:
        yield Problem(
            "backbone.quantization", cfg.backbone.quantization,
            "ZeRO-3 cannot partition 4-bit weights: they are packed bytes with scales beside them",
            "Use trainer=zero2 or trainer=ddp with quantization=nf4, or trainer=zero3 with quantization=null.",
        )  # fmt: skip
    if stage == 3 and cfg.backbone.get("device") not in (None, "auto"):
        yield Problem(
            "backbone.device", cfg.backbone.device, "ZeRO-3 spreads the weights over the devices of all processes",
            "Leave backbone.device=null.",
        )  # fmt: skip
