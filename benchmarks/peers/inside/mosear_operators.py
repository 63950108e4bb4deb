"""Which kinds of operators mosear's decoder spends its time in: the callback :class:`Operators`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm")
FORWARD, BACKWARD = "decoder, forward", "backward"


def kind(name: str, shapes: Iterable[Iterable[int]], rank: int) -> str:
    """What an operator is.

    Args:
        name: as the profiler has it.
        shapes: of its inputs.
        rank: a product with a side of this length is the adapter's.
    """
    if name in PRODUCTS:
        return "products of the adapter" if any(rank in shape for shape in shapes) else "products of frozen weights"
    if "attention" in name and name.startswith("aten::"):
        return "attention"
    return "element by element, copies, Python"


def sums(events: Iterable[Any], rank: int) -> Counter[str]:
    """Seconds by scope and kind. The time of an operator is its own, without that of operators that it calls."""
    found: Counter[str] = Counter()
    for event in events:
        above, scope = event, "rest of the step"
        while above is not None:
            scope, above = above.name if above.name in (FORWARD, BACKWARD) else scope, above.cpu_parent
        found[f"{scope}: {kind(event.name, event.input_shapes or (), rank)}"] += event.self_cpu_time_total / 1e6
    return found


class Operators(Callback):
    """Profiles the steps after the first ones, with PyTorch's profiler.

    Args:
        path: JSON file to write: seconds by scope and kind, the number of steps, and the
            clock, which runs on while other jobs have the processor: shares are what to read.
        rank: of the adapter.
        warmup: steps that do not count.
    """

    def __init__(self, path: str, rank: int, warmup: int = 2) -> None:
        self.path, self.rank, self.warmup = Path(path), rank, warmup
        self.profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True, acc_events=True
        )
        self.steps = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything that is named exists now."""
        decoder = type(pl_module.backbone.language_model)
        for owner, name, scope in ((decoder, "__call__", FORWARD), (torch.Tensor, "backward", BACKWARD)):
            setattr(owner, name, named(getattr(owner, name), scope))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts from the end of the warm-up."""
        if batch_idx + 1 == self.warmup:
            self.profiler.start()
        self.steps += batch_idx + 1 >= self.warmup
        if trainer.global_step == trainer.max_steps:
            self.profiler.stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write."""
        found = {"seconds": dict(sums(self.profiler.events(), self.rank)), "steps": self.steps, "clock": "Wall-clock"}
        self.path.write_text(json.dumps(found), encoding="utf-8")


def named(function: Callable[..., Any], scope: str) -> Callable[..., Any]:
    """The function inside a range of the profiler."""

    @wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(scope):
            return function(*args, **kwargs)

    return inside
