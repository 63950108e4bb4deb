"""Language-model loss where labels are, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mosear.data.sample import IGNORE


@dataclass(frozen=True)
class AnswerRows:
    """Which hidden states predict an answer token, and which one.

    Attributes:
        index: int64 ``[N]`` places in states ``[B L, D]``.
        targets: int64 ``[N]``.
    """

    index: Tensor
    targets: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> AnswerRows:
        """From ``labels [B, L]``, ``IGNORE`` outside the answer: the state before an answer token predicts it."""
        answers = labels[:, 1:] != IGNORE
        row, column = answers.nonzero(as_tuple=True)
        return cls(row * labels.shape[1] + column, labels[:, 1:][answers])

    def loss(self, hidden: Tensor, lm_head: nn.Module | Callable[[Tensor], Tensor]) -> Tensor:
        """Summed cross-entropy over the rows, from states ``[B, L, D]``."""
        logits = lm_head(hidden.flatten(0, 1)[self.index]).float()
        return nn.functional.cross_entropy(logits, self.targets, reduction="sum")

    @property
    def count(self) -> Tensor:
        """float32, how many there are, at least 1."""
        return torch.tensor(float(max(1, len(self.targets))), device=self.targets.device)


def answer_loss(
    hidden: Tensor, lm_head: nn.Module | Callable[[Tensor], Tensor], labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of the answer tokens.

        loss = - sum over t with labels[t] != IGNORE of log softmax(lm_head(h[t-1]))[labels[t]]

    The head runs on the hidden states that predict an answer token alone: with a vocabulary of 152k and a prompt of a
    few thousand tokens, logits of all positions would be the largest tensor of the step.

    Args:
        hidden: ``[B, L, D]`` states of the decoder.
        lm_head: ``[N, D] -> [N, V]``.
        labels: ``[B, L]``, ``IGNORE`` outside the answer.

    Returns:
        The summed loss (float32) and the number of answer tokens; :func:`mosear.methods.processes.mean_loss` makes
        the mean over all processes of them.
    """
    rows = AnswerRows.of(labels)
    return rows.loss(hidden, lm_head), rows.count
