"""Output rows of tags: told apart where they are asked for, no likelier elsewhere, and nothing else moves."""

import torch
from torch import nn

from mosear.pretraining.tags import set_tags_apart


def test_only_the_tags_rows_move_and_each_answers_its_question():
    torch.manual_seed(0)
    head = nn.Linear(64, 40, bias=False)
    ids = torch.tensor([36, 37, 38, 39])
    with torch.no_grad():
        head.weight[ids] = head.weight[36] + 1e-3 * torch.randn(4, 64)  # as if they were one token
    asked, others = torch.randn(4, 64), torch.randn(50, 64)
    before = head.weight.detach().clone()
    share = head(others).softmax(-1)[:, ids].sum(1)
    least = set_tags_apart(head, ids, asked, others)
    assert least > 0.8 and (head(asked).argmax(-1) == ids).all()
    assert torch.equal(head.weight[:36], before[:36]) and not torch.equal(head.weight[36:], before[36:])
    after = head(others).softmax(-1)[:, ids].sum(1)
    assert after.mean() < 1.2 * share.mean()
    assert head.weight.requires_grad
