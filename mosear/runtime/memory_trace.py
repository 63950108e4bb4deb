"""How much memory a step takes, found by running it without memory.

A model of fake tensors (they have shapes, types and lifetimes, but no storage) runs the real code: the backbone's own
layers with the injected adapter, the gate, the attention kernel that torch chooses, the loss, and backward. A dispatch
mode watches which storages are alive. What it finds is the allocator's view: neither fragmentation nor the workspaces
inside a kernel are in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from mosear.backbones.masks import causal_mask
from mosear.experts.state import sequence_state
from mosear.roles import TokenRole


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

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._events += 1
        self._born[key] = self._events
        self._alive[key] = weakref.finalize(storage, self._free, key, size)
        self.live += size
        if self.live > self.peak:
            self.peak, self._peak_event = self.live, self._events

    def _free(self, key: int, size: int) -> None:
        self._alive.pop(key, None)
        self.live -= size


@dataclass(frozen=True)
class StepShape:
    """What one process computes in one step.

    Attributes:
        clips: clips whose answers are trained on.
        tokens: of each, answer included.
        answer: answer tokens of each, with the end token.
        recombined: clips of conflict mixing.
        nodes: inner nodes of the trie of candidate labels.
        autocast: activations in bfloat16 whatever the weights are.
    """

    clips: int
    tokens: int
    answer: int
    recombined: int = 0
    nodes: int = 0
    autocast: bool = False


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
        for name, parameter in child._parameters.items():
            if parameter is not None:  # a tied weight stays one
                new = made.setdefault(id(parameter), nn.Parameter(_empty(parameter), parameter.requires_grad))
                child._parameters[name] = new
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = _empty(buffer)


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def trace_training(thinker: Any, language_model: Any, shape: StepShape) -> Traced:
    """One training step: forward of all clips, loss, backward.

    Args:
        thinker: with an adapter injected; of fake or of real tensors.
        language_model: its decoder, in the mode it trains in.
        shape: of the step.
    """
    known = (*thinker.parameters(), *thinker.buffers())
    with LiveBytes(known) as memory, _autocast(shape.autocast):
        total, logits = _answers(thinker, language_model, shape, memory)
        if shape.recombined:
            loss, more = _recombined(thinker, language_model, shape, memory)
            total, logits = total + loss, logits + more
        total.backward()
        gradients = (p.grad for p in thinker.parameters() if p.grad is not None)
        found = memory.peak - memory.at_peak(gradients)
    for parameter in thinker.parameters():
        parameter.grad = None
    return Traced(found, logits)


@torch.no_grad()
def trace_evaluation(thinker: Any, language_model: Any, shape: StepShape) -> Traced:
    """Label scoring: one pass over prompts and the trie's nodes, with masks."""
    with LiveBytes((*thinker.parameters(), *thinker.buffers())) as memory, _autocast(shape.autocast):
        _, logits = _labels(thinker, language_model, shape.clips, shape, memory)
        return Traced(memory.peak, logits)


def _answers(thinker: Any, language_model: Any, shape: StepShape, memory: LiveBytes) -> tuple[Tensor, int]:
    rows, length = shape.clips, shape.tokens
    # A lone clip has no padding, so the kernel needs no mask.
    mask = causal_mask(torch.ones(rows, length, dtype=torch.long)) if rows > 1 else None
    hidden = _decode(thinker, language_model, rows, length, mask)
    # As answer_loss, whose choice of rows depends on data that fake tensors do not have.
    before = memory.live
    logits = thinker.lm_head(hidden[:, -shape.answer - 1 : -1].flatten(0, 1)).float()
    labels = torch.zeros(rows * shape.answer, dtype=torch.long)
    return nn.functional.cross_entropy(logits, labels, reduction="sum"), memory.live - before


def _recombined(thinker: Any, language_model: Any, shape: StepShape, memory: LiveBytes) -> tuple[Tensor, int]:
    steps, logits = _labels(thinker, language_model, shape.recombined, shape, memory)
    return steps[..., :1].sum(), logits


def _labels(thinker: Any, language_model: Any, rows: int, shape: StepShape, memory: LiveBytes) -> tuple[Tensor, int]:
    """The pass of :func:`mosear.evaluation.scoring.label_pass`."""
    length = shape.tokens + shape.nodes
    mask = causal_mask(torch.ones(rows, length, dtype=torch.long))
    hidden = _decode(thinker, language_model, rows, length, mask)
    before = memory.live
    steps = thinker.lm_head(hidden[:, -shape.nodes - 1 :]).float().log_softmax(-1)
    return steps, memory.live - before


def _decode(thinker: Any, language_model: Any, rows: int, length: int, mask: Tensor | None) -> Tensor:
    embeds = torch.empty(rows, length, language_model.config.hidden_size, dtype=_dtype(thinker))
    if getattr(language_model, "gradient_checkpointing", False):
        embeds.requires_grad_(True)
    with _prompts(thinker, rows, length):
        hidden: Tensor = language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=torch.zeros(3, rows, length, dtype=torch.long),
            use_cache=False,
        ).last_hidden_state
    return hidden


@contextmanager
def _prompts(thinker: Any, rows: int, length: int) -> Iterator[None]:
    """Half picture, half text: which is which costs nothing."""
    roles = torch.full((rows, length), int(TokenRole.VISUAL))
    roles[:, length // 2 :] = int(TokenRole.TEXT)
    with sequence_state(thinker, roles=roles, prompt_mask=torch.ones(rows, length, dtype=torch.bool)):
        yield


def _dtype(thinker: Any) -> torch.dtype:
    dtype: torch.dtype = thinker.get_input_embeddings().weight.dtype
    return dtype


def _autocast(enabled: bool) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if enabled else nullcontext()
