"""The teacher of conflict mixing: what it reads from single modalities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mosear.backbones.labels import LabelTrie
from mosear.data.sample import Sample, collate
from mosear.inference.prompts import Prompts
from mosear.inference.unimodal import unimodal_log_probs
from mosear.methods.processes import anywhere

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone


class Teacher:
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
            read = Prompts.of(self.backbone, batch)
            return unimodal_log_probs(self.backbone.model, self.backbone.language_model, read, self.trie, modality)

    @contextmanager
    def _adapter_off(self) -> Iterator[None]:
        from peft import PeftModel

        if not isinstance(self.network, PeftModel):
            raise ValueError(
                "A frozen teacher needs a PEFT model, whose adapter it can disable, not "
                f"{type(self.network).__name__}. Train an adapter, or set method.teacher=adapted."
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
