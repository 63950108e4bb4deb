"""Sets the output rows of tags apart, so that a frozen base with an adapter can tell them when it writes.

Tags that occur only among words to copy get rows that point one way: an adapter, which trains no rows, could not make
the one that closes a thought likelier than the one that closes an answer. Here each tag is the answer to a question of
its own. Nothing but the tags' own output rows is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

QUESTIONS = {
    "<think>": "Which tag opens the reasoning?",
    "</think>": "Which tag closes the reasoning?",
    "<answer>": "Which tag opens the answer?",
    "</answer>": "Which tag closes the answer?",
}


def set_tags_apart(
    head: nn.Module, ids: Tensor, asked: Tensor, others: Tensor, *, steps: int = 300, rate: float = 0.02
) -> float:
    """Trains rows of an output layer; returns the least probability of a right tag behind its question.

    Args:
        head: the output layer, changed in place.
        ids: ``[T]`` tokens whose rows are trained.
        asked: ``[T, D]`` decoder states at which token t is right.
        others: ``[N, D]`` states at which none is; there they stay as unlikely as they were.
        steps: of Adam.
        rate: its learning rate.
    """
    trained = head.get_parameter("weight")
    weight = trained.detach().clone()
    before = _log_share(F.linear(others, weight), ids)
    rows = weight[ids].clone().requires_grad_(True)
    optimiser = torch.optim.Adam([rows], lr=rate)
    for _ in range(steps):
        table = weight.index_copy(0, ids, rows)
        risen = F.relu(_log_share(F.linear(others, table), ids) - before)
        loss = F.cross_entropy(F.linear(asked, table), ids) + risen.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        trained[ids] = rows.detach()
        found = head(asked).softmax(-1).gather(1, ids[:, None])
    return float(found.min())


def _log_share(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability ``[N]`` of all these tokens together."""
    return logits.log_softmax(-1)[:, ids].logsumexp(-1)
