"""Passes of a training step on tensors that may have no memory: what planning runs to see how much a step takes.

They are the passes that training runs (:func:`answer_pass`, :func:`label_pass`); only their inputs are made up. Half of
a sequence is picture, half text: which is which costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mosear.backbones.labels import LabelTrie
from mosear.backbones.masks import causal_mask
from mosear.inference.prompts import Prompts
from mosear.inference.scoring import label_pass
from mosear.methods.answer_tuning.loss import AnswerRows
from mosear.methods.answer_tuning.method import answer_pass
from mosear.roles import TokenRole


class Memory(Protocol):
    """What watches the bytes in use."""

    @property
    def now(self) -> int:
        """This moment."""

    def since(self, moment: int) -> int:
        """Bytes in use that were allocated after a moment."""


@dataclass
class StepTrace:
    """What one process computes in one step.

    Attributes:
        thinker: with an adapter injected; of fake or of real tensors.
        language_model: its decoder, in the mode it trains in.
        clips: of a batch.
        tokens: of each, answer included.
        answer: answer tokens of each, with the end token.
        nodes: inner nodes of the trie of candidate labels.
        memory: tells the bytes in use.
        logits: bytes that head and loss of all passes so far have added.
    """

    thinker: Any
    language_model: Any
    clips: int
    tokens: int
    answer: int
    nodes: int
    memory: Memory | None = None
    logits: int = field(default=0, init=False)

    def answers(self, clips: int) -> Tensor:
        """Summed loss of the answers of so many clips."""
        # A lone clip has no padding, so the kernel needs no mask.
        mask = causal_mask(torch.ones(clips, self.tokens, dtype=torch.long)) if clips > 1 else None
        first = torch.arange(clips)[:, None] * self.tokens + self.tokens - self.answer - 1
        rows = AnswerRows(
            (first + torch.arange(self.answer)).flatten(), torch.zeros(clips * self.answer, dtype=torch.long)
        )
        return self._measured(
            lambda: answer_pass(self.thinker, self.language_model, self._prompts(clips), rows, mask)[0]
        )

    def labels(self, clips: int) -> Tensor:
        """Summed label scores of so many clips."""
        # Its shape alone counts: as many nodes, each of which follows the prompt.
        trie = LabelTrie(("label",), (0,) * self.nodes, (-1,) * self.nodes, (((-1, 0), (0, 0)),))
        prompts = self._prompts(clips)
        return self._measured(lambda: label_pass(self.thinker, self.language_model, prompts, trie)[0]).sum()

    def _prompts(self, clips: int) -> Prompts:
        embeddings = self.thinker.get_input_embeddings().weight
        embeds = torch.empty(clips, self.tokens, self.language_model.config.hidden_size, dtype=embeddings.dtype)
        roles = torch.full((clips, self.tokens), int(TokenRole.VISUAL))
        roles[:, self.tokens // 2 :] = int(TokenRole.TEXT)
        positions = torch.zeros(3, clips, self.tokens, dtype=torch.long)
        text = roles == int(TokenRole.TEXT)
        return Prompts(embeds, positions, roles, torch.ones_like(text), text)

    def _measured(self, run: Callable[[], Tensor]) -> Tensor:
        if self.memory is None:
            return run()
        memory, head = self.memory, 0

        def note(*_: Any) -> None:
            nonlocal head
            head = memory.now

        handle = self.thinker.get_output_embeddings().register_forward_pre_hook(note)
        try:
            result = run()
        finally:
            handle.remove()
        self.logits += memory.since(head)
        return result
