"""How much memory a step takes, found by running it without memory.

A model of fake tensors (they have shapes, types and lifetimes, but no storage) runs the real code: the backbone's own
layers with the injected adapter, the gate, the attention kernel that torch chooses, the loss, and backward. A dispatch
mode watches which storages are alive. What it finds is the allocator's view: neither fragmentation nor the workspaces
inside a kernel are in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from mosear.methods.step_trace import StepTrace


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations inside the block have made and that are still alive.

    Attributes:
        live: bytes alive now.
        peak: most bytes alive at once.
    """

    def __init__(self, known: Iterator[Tensor] | tuple[Tensor, ...] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._alive: dict[int, Any] = {}
        self._born: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._events = self._peak_event = 0
        for tensor in known:
            self._alive[tensor.untyped_storage()._cdata] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and notes what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._note(value)
        return result

    def at_peak(self, tensors: Iterator[Tensor]) -> int:
        """Bytes of those of ``tensors`` that were alive at the peak (they must be alive still)."""
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
        return sum(size for key, size in storages.items() if self._born.get(key, self._events + 1) <= self._peak_event)

    @property
    def now(self) -> int:
        """This moment, for :meth:`since`."""
        return self._events

    def since(self, moment: int) -> int:
        """Bytes alive now that were made after a moment."""
        return sum(self._sizes[key] for key in self._alive if self._born.get(key, 0) > moment)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._events += 1
        self._born[key], self._sizes[key] = self._events, size
        self._alive[key] = weakref.finalize(storage, self._free, key, size)
        self.live += size
        if self.live > self.peak:
            self.peak, self._peak_event = self.live, self._events

    def _free(self, key: int, size: int) -> None:
        self._alive.pop(key, None)
        self.live -= size


@dataclass(frozen=True)
class Traced:
    """Bytes of a step beside weights, adapter, gradients and optimiser.

    Attributes:
        activations: at the peak.
        logits: of these, what head and loss added; they are gone when backward reaches the decoder.
    """

    activations: int
    logits: int


def fake(module: nn.Module) -> None:
    """Give a module on the meta device fake tensors of the CPU instead; call it inside a ``FakeTensorMode``."""
    made: dict[int, nn.Parameter] = {}
    for child in module.modules():
        for name, parameter in list(child._parameters.items()):
            if parameter is not None:  # a tied weight stays one
                new = made.setdefault(id(parameter), nn.Parameter(_empty(parameter), parameter.requires_grad))
                setattr(child, name, new)  # an LSTM keeps its weights in a list of its own as well
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = _empty(buffer)


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def trace_training(step: StepTrace, run: Callable[[StepTrace], Tensor], *, autocast: bool = False) -> Traced:
    """One training step: forward of all passes, loss, backward.

    Args:
        step: of the largest step.
        run: the passes of a method, :meth:`mosear.methods.base.Method.memory_step`.
        autocast: activations in bfloat16 whatever the weights are.
    """
    thinker = step.thinker
    with LiveBytes((*thinker.parameters(), *thinker.buffers())) as memory, _autocast(autocast):
        step = replace(step, memory=memory)
        run(step).backward()
        gradients = (p.grad for p in thinker.parameters() if p.grad is not None)
        found = memory.peak - memory.at_peak(gradients)
    for parameter in thinker.parameters():
        parameter.grad = None
    return Traced(found, step.logits)


@torch.no_grad()
def trace_evaluation(step: StepTrace, *, autocast: bool = False) -> Traced:
    """Label scoring: one pass over prompts and the trie's nodes, with masks."""
    thinker = step.thinker
    with LiveBytes((*thinker.parameters(), *thinker.buffers())) as memory, _autocast(autocast):
        step = replace(step, memory=memory)
        step.labels(step.clips)
        return Traced(memory.peak, step.logits)


def _autocast(enabled: bool) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if enabled else nullcontext()
