"""Language-model loss where labels are, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

IGNORE = -100


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
        The summed loss (float32) and the number of answer tokens; :func:`mosear.training.processes.mean_loss` makes
        the mean over all processes of them.
    """
    targets = labels[:, 1:]
    answers = targets != IGNORE
    logits = lm_head(hidden[:, :-1][answers]).float()
    loss = nn.functional.cross_entropy(logits, targets[answers], reduction="sum")
    return loss, answers.sum().clamp(min=1).to(torch.float32)
