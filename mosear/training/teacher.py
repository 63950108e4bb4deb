"""Label distributions inside training: a student that learns from them, and a teacher that reads single modalities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mosear.backbones.masks import causal_mask, tree_mask
from mosear.data.sample import OmniBatch, Sample, collate
from mosear.evaluation.scoring import UNIMODAL, LabelTrie, label_log_probs
from mosear.experts.state import SequenceState, sequence_state
from mosear.roles import TokenRole
from mosear.training.processes import anywhere

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone


def one_pass_log_probs(backbone: OmniBackbone, batch: OmniBatch, trie: LabelTrie) -> tuple[Tensor, SequenceState]:
    """:func:`label_log_probs` for training: prompt and label tokens in ONE pass, without a KV cache.

    The trie's nodes follow the prompt as a tree: each sees the prompt, its ancestors and itself. Gradient checkpointing
    drops KV caches, so the two-pass variant cannot be used with it.

    Args:
        backbone: with an adapter, usually in training mode.
        batch: prompts without answers, left-padded.
        trie: the candidates.

    Returns:
        float32 ``[B, C]`` summed log-probabilities, and the state of the pass.
    """
    device, (rows, length) = batch.input_ids.device, batch.input_ids.shape
    nodes = torch.tensor(trie.tokens, device=device).expand(rows, -1)
    depths = torch.tensor(trie.depths(), device=device)
    last = batch.position_ids.amax(dim=(0, 2))
    positions = (last[:, None] + 1 + depths).expand(3, -1, -1)
    count = nodes.shape[1]
    mask = torch.cat(
        [
            F.pad(causal_mask(batch.attention_mask), (0, count), value=False),
            tree_mask(batch.attention_mask, trie.ancestors().to(device)),
        ],
        dim=2,
    )
    embeds, extra = backbone.embed(torch.cat([batch.input_ids, nodes], dim=1), batch.media)
    if getattr(backbone.language_model, "gradient_checkpointing", False):
        embeds.requires_grad_(True)  # a checkpointed segment whose inputs need no gradient would give none
    roles = F.pad(batch.roles, (0, count), value=int(TokenRole.TEXT))
    with sequence_state(backbone, roles=roles, prompt_mask=F.pad(batch.prompt_mask, (0, count), value=False)) as state:
        hidden = backbone.hidden_states(embeds, mask, torch.cat([batch.position_ids, positions], dim=-1), **extra)
    # Column 0 follows the whole prompt, column 1 + i follows node i.
    steps = backbone.lm_head(hidden[:, length - 1 :]).float().log_softmax(-1)
    scores = [steps[:, [parent + 1 for parent, _ in path], [t for _, t in path]].sum(-1) for path in trie.paths]
    return torch.stack(scores, dim=1), state


class UnimodalReader:
    """What a teacher reads from one modality of a clip, the others hidden.

    A frozen teacher always says the same, so its readings are kept by clip id.

    Args:
        backbone: the model in training.
        network: the PEFT model around it.
        trie: the candidate labels.
        pad_id: for batches.
        frozen: read without the adapter.
    """

    def __init__(
        self, backbone: OmniBackbone, network: nn.Module, trie: LabelTrie, pad_id: int, *, frozen: bool
    ) -> None:
        self.backbone, self.network, self.trie, self.pad_id, self.frozen = backbone, network, trie, pad_id, frozen
        self.known: dict[tuple[str, str], Tensor] = {}

    def __call__(self, prompts: Sequence[Sample], modality: str) -> Tensor:
        """float32 ``[B, C]`` log-probabilities (not normalised over the candidates), without gradients.

        Args:
            prompts: samples without answers, media encoded; at least one.
            modality: ``visual`` or ``audio``.
        """
        if not self.frozen:
            return self.read(prompts, modality)
        missing = {p.clip.id: p for p in prompts if (p.clip.id, modality) not in self.known}
        # All processes read, or none: partitioned weights are gathered by all of them together.
        if anywhere(bool(missing), self.backbone.device):
            found = self.read(list(missing.values()) or prompts[:1], modality).cpu()
            self.known.update({(name, modality): row for name, row in zip(missing, found, strict=False)})
        return torch.stack([self.known[p.clip.id, modality] for p in prompts]).to(self.backbone.device)

    def state_dict(self) -> dict[str, Any]:
        """What was read so far: a reading depends, in its last bits, on the batch it was made in."""
        values = list(self.known.values())
        return {"keys": [list(key) for key in self.known], "log_probs": torch.stack(values) if values else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put :meth:`state_dict` back."""
        values = [] if state["log_probs"] is None else state["log_probs"].unbind()
        self.known = {(name, modality): row for (name, modality), row in zip(state["keys"], values, strict=True)}

    @torch.no_grad()
    def read(self, prompts: Sequence[Sample], modality: str) -> Tensor:
        """One pass of the teacher."""
        batch = collate(prompts, self.pad_id).to(self.backbone.device)
        with eval_mode(self.backbone.model), self._adapter_off() if self.frozen else nullcontext():
            return label_log_probs(self.backbone, batch, self.trie, hide=UNIMODAL[modality])

    @contextmanager
    def _adapter_off(self) -> Iterator[None]:
        from peft import PeftModel

        if not isinstance(self.network, PeftModel):
            raise ValueError(
                "A frozen teacher needs a PEFT model, whose adapter it can disable, not "
                f"{type(self.network).__name__}. Train an adapter, or set mixing.teacher=adapted."
            )
        with self.network.disable_adapter():
            yield


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a block; every submodule then gets its own mode back (towers and decoder differ)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
