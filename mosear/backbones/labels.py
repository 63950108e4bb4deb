"""Candidate labels as a prefix trie of tokens: what a model's answer is chosen from.

score(label) = sum over the label's tokens and the end token of log p(token | prompt, earlier tokens)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mosear.backbones.masks import causal_mask, tree_mask


@dataclass(frozen=True)
class LabelTokens:
    """What a pass needs in which ``N`` tokens (labels, completions) follow each prompt, as a tree.

    Attributes:
        ids: ``[B, N]``, to be put behind the prompts.
        position_ids: ``[3, B, L + N]`` of prompts and nodes; siblings share one.
        mask: bool ``[B, 1, L + N, L + N]``: a node sees the prompt, its ancestors and itself.
    """

    ids: Tensor
    position_ids: Tensor
    mask: Tensor

    @classmethod
    def behind(
        cls,
        ids: Tensor,
        depths: Tensor,
        ancestors: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        hidden_keys: Tensor | None = None,
    ) -> LabelTokens:
        """A tree of tokens behind each prompt.

        Args:
            ids: ``[B, N]``.
            depths: ``[N]``, distance from the prompt, from 0.
            ancestors: bool ``[N, N]``: node i descends from, or is, node j.
            attention_mask: ``[B, L]`` of the prompts, 0 on padding.
            position_ids: ``[3, B, L]``.
            hidden_keys: ``[B, L]`` bool, prompt tokens that are hidden.
        """
        ends = position_ids.amax(0).masked_fill(~attention_mask.bool(), 0).amax(1)
        positions = ends[:, None] + 1 + depths
        prompt = F.pad(causal_mask(attention_mask, hidden_keys), (0, ids.shape[1]), value=False)
        nodes = tree_mask(attention_mask, ancestors, hidden_keys)
        return cls(
            ids,
            torch.cat([position_ids, positions.expand(3, -1, -1)], dim=-1),
            torch.cat([prompt, nodes], dim=2),
        )

    def extend(self, tokens: Tensor, value: int) -> Tensor:
        """``[B, L]`` about the prompts to ``[B, L + N]``, with ``value`` for the nodes."""
        return F.pad(tokens, (0, self.ids.shape[1]), value=value)


@dataclass(frozen=True)
class LabelTrie:
    """Candidate labels as token paths that end with the end token.

    Attributes:
        labels: the candidates, in the order of the scores.
        tokens: token of each inner node (a node that some token follows), ``N`` of them.
        parents: parent of each inner node, -1 for the prompt.
        paths: per label, the ``(parent node, token)`` steps whose log-probabilities add up to its score.
    """

    labels: tuple[str, ...]
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def build(cls, labels: Sequence[str], token_ids: Sequence[Sequence[int]]) -> LabelTrie:
        """``token_ids[i]`` spells ``labels[i]`` and closes with the end token."""
        nodes: dict[tuple[int, ...], int] = {}
        tokens: list[int] = []
        parents: list[int] = []
        paths = []
        seen: dict[tuple[int, ...], str] = {}
        for label, ids in zip(labels, token_ids, strict=True):
            if (twin := seen.setdefault(tuple(ids), label)) != label:
                raise ValueError(
                    f"Labels {twin!r} and {label!r} have the same tokens {list(ids)}: the model cannot tell them apart."
                )
            parent, path = -1, []
            for depth, token in enumerate(ids):
                path.append((parent, token))
                if depth == len(ids) - 1:
                    break
                prefix = tuple(ids[: depth + 1])
                if prefix not in nodes:
                    nodes[prefix] = len(tokens)
                    tokens.append(token)
                    parents.append(parent)
                parent = nodes[prefix]
            paths.append(tuple(path))
        return cls(tuple(labels), tuple(tokens), tuple(parents), tuple(paths))

    @classmethod
    def of(cls, labels: Sequence[str], tokenizer: Any) -> LabelTrie:
        """Spell the labels with a tokenizer; each closes with its end token."""
        spelled = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
        return cls.build(labels, [[*ids, tokenizer.eos_token_id] for ids in spelled])

    def depths(self) -> list[int]:
        """Distance of each inner node from the prompt, from 0."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    def ancestors(self) -> Tensor:
        """bool ``[N, N]``: node i descends from, or is, node j."""
        matrix = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                matrix[node] |= matrix[parent]
        return matrix

    def after(self, attention_mask: Tensor, position_ids: Tensor, hidden_keys: Tensor | None = None) -> LabelTokens:
        """The inner nodes as further tokens of the pass that reads the prompts.

        Args:
            attention_mask: ``[B, L]`` of the prompts, 0 on padding.
            position_ids: ``[3, B, L]``.
            hidden_keys: ``[B, L]`` bool, prompt tokens that are hidden.
        """
        device = attention_mask.device
        return LabelTokens.behind(
            torch.tensor(self.tokens, device=device).expand(len(attention_mask), -1),
            torch.tensor(self.depths(), device=device),
            self.ancestors().to(device),
            attention_mask,
            position_ids,
            hidden_keys,
        )

    def scores(self, steps: Tensor) -> Tensor:
        """Summed log-probabilities of the labels.

        Args:
            steps: ``[B, 1 + N, V]`` log-probabilities of what follows the prompt (column 0) and each inner node.

        Returns:
            ``[B, C]``.
        """
        return torch.stack(
            [steps[:, [p + 1 for p, _ in path], [token for _, token in path]].sum(-1) for path in self.paths], dim=1
        )
