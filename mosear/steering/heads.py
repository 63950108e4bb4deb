"""Single-pass evidence: what the last prompt token collects from each modality, read as if it were the answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mosear.backbones.labels import LabelTrie
from mosear.inference.prompts import Prompts
from mosear.steering.rows import KEYS

if TYPE_CHECKING:
    from mosear.steering.attention import ExactRows


class HeadsReader:
    """Sends partial outputs of chosen heads through the unembedding (a logit lens).

        z_m = sum over layers of W_O [o_m of each chosen head],     o_m = sum over j in m of p_j v_j
        P_m = softmax over labels of  W_U[first token] norm(z_m)

    with p the attention of the last prompt token. Approximate in four ways: values of later media tokens already hold
    earlier ones, layers behind the last chosen one are skipped, adapters on the output projection are left out (the
    scale of a gate belongs to whole sequences), and of each label only the first token counts.

    Args:
        thinker: the model.
        language_model: its decoder.
        trie: the candidate labels.
        evidence: (layer, head) pairs to read.
        heads: heads per layer.
    """

    def __init__(
        self,
        thinker: Any,
        language_model: nn.Module,
        trie: LabelTrie,
        evidence: Sequence[tuple[int, int]],
        heads: int,
    ) -> None:
        self.thinker: Any = thinker
        self.norm: Any = language_model.get_submodule("norm")
        self.tokens = [path[0][1] for path in trie.paths]
        if len(set(self.tokens)) < len(self.tokens):
            warnings.warn(
                f"Of the labels {', '.join(trie.labels)} some begin with the same token: Chase(detector='heads') "
                "cannot tell these apart.",
                stacklevel=4,
            )
        self.chosen = {layer: torch.zeros(heads) for layer, _ in evidence}
        for layer, head in evidence:
            self.chosen[layer][head] = 1.0

    @property
    def last_layer(self) -> int:
        """After which the reading is complete."""
        return max(self.chosen)

    def begin(self, prompts: Prompts, decide: Callable[[dict[str, Tensor]], Tensor | None]) -> HeadsReading:
        """Read the prompts of a pass.

        Args:
            prompts: to read.
            decide: turns readings into the policy's state.
        """
        return HeadsReading(self, prompts, decide)


class HeadsReading:
    """The reading of one pass.

    Args:
        reader: whose.
        prompts: to read.
        decide: see :meth:`HeadsReader.begin`.
    """

    def __init__(
        self, reader: HeadsReader, prompts: Prompts, decide: Callable[[dict[str, Tensor]], Tensor | None]
    ) -> None:
        self.reader, self.decide = reader, decide
        self.last = prompts.last[:, None]
        self.tokens = torch.stack([prompts.tokens_of(modality) for modality in KEYS], dim=1).float()
        self._collected: Tensor | None = None

    @property
    def layers(self) -> frozenset[int]:
        """Whose attention is evidence."""
        return frozenset(self.reader.chosen)

    @torch.no_grad()
    def collect(self, layer: int, module: nn.Module, exact: ExactRows) -> Tensor | None:
        """Add a layer's part; after the last one, what ``decide`` says."""
        device, dtype = exact.query.device, exact.query.dtype
        row = exact.probabilities(self.last.to(device))
        modalities = F.pad(self.tokens.to(device), (0, row.shape[-1] - self.tokens.shape[-1]))
        parts = exact.values(row * modalities[:, None])  # [B, 3, H, D]: a modality in place of each row
        parts = parts * self.reader.chosen[layer].to(device)[:, None]
        projected = _projection(module)(parts.flatten(2).to(dtype)).float()
        self._collected = projected if self._collected is None else self._collected.to(device) + projected
        return self.decide(self._readings(dtype)) if layer == self.reader.last_layer else None

    def _readings(self, dtype: torch.dtype) -> dict[str, Tensor]:
        assert self._collected is not None
        norm, head = self.reader.norm, self.reader.thinker.get_output_embeddings()
        states = norm(self._collected.to(norm.weight.device, dtype))
        rows = head.weight[self.reader.tokens]
        probabilities = F.linear(states.to(rows.device).float(), rows.float()).softmax(-1).to(self.tokens.device)
        absent = ~self.tokens.any(-1)
        probabilities = probabilities.masked_fill(absent[..., None], float("nan"))
        return dict(zip(KEYS, probabilities.unbind(1), strict=True))


def _projection(module: Any) -> nn.Module:
    """The frozen output projection, without adapters."""
    layer: Any = module.o_proj
    base: nn.Module = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return base
