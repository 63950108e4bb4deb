"""What the model reads from each modality alone: extra passes over a prompt in which the others are hidden.

Hiding follows one rule everywhere: positions are those of the whole prompt, hidden keys are invisible through the
attention mask, and a gate that pools tokens does not see them either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mosear.backbones.labels import LabelTokens, LabelTrie
from mosear.experts.state import sequence_state
from mosear.roles import TokenRole


@dataclass(frozen=True)
class PromptCall:
    """A pass over whole prompts (and answers, perhaps), as the language model is about to run it.

    Attributes:
        embeds: ``[B, L, hidden size]``.
        positions: ``[3, B, L]``.
        roles: ``[B, L]`` :class:`TokenRole`; hidden tokens count as padding.
        prompt: bool ``[B, L]``.
        transcript: bool ``[B, L]``; ``None`` = nobody knows where it is.
        extra: other arguments of the language model.
    """

    embeds: Tensor
    positions: Tensor
    roles: Tensor
    prompt: Tensor
    transcript: Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def real(self) -> Tensor:
        """bool ``[B, L]``: visible tokens of the prompt."""
        return self.prompt & (self.roles != int(TokenRole.PAD))

    @property
    def last(self) -> Tensor:
        """``[B]``, where the prompt's last token is: the one that the answer follows."""
        return (self.real * torch.arange(1, self.real.shape[1] + 1, device=self.real.device)).argmax(1)

    def tokens_of(self, modality: str) -> Tensor:
        """bool ``[B, L]``: visible prompt tokens that carry ``audio``, ``visual`` or ``text`` (the transcript)."""
        if modality == "text":
            return torch.zeros_like(self.real) if self.transcript is None else self.real & self.transcript
        return self.real & (self.roles == int(TokenRole[modality.upper()]))

    def present(self, modality: str) -> Tensor:
        """bool ``[B]``: does the clip carry it?"""
        return self.tokens_of(modality).any(1)

    def both(self) -> bool:
        """Has any clip a face and a voice? (Waits for the device.)"""
        return bool((self.present("audio") & self.present("visual")).any())


class MaskedReader:
    """Reads single modalities.

    Args:
        thinker: the model.
        language_model: its decoder.
        trie: the candidate labels.
    """

    def __init__(self, thinker: Any, language_model: nn.Module, trie: LabelTrie) -> None:
        self.thinker, self.language_model, self.trie = thinker, language_model, trie

    @torch.no_grad()
    def read(self, call: PromptCall, modalities: Sequence[str], *, keep_transcript: bool = False) -> dict[str, Tensor]:
        """float32 ``[B, C]`` distributions over the labels; NaN rows where a clip lacks the modality.

        One pass each, over prompt and label tokens at once: the nodes of the label trie follow the prompt as a tree. No
        KV cache is read or written.

        Args:
            call: the prompts.
            modalities: of ``audio``, ``visual`` and ``text``.
            keep_transcript: hide the other media alone.
        """
        readings = {}
        for modality in modalities:
            others = {"audio", "visual", "text"} - {modality} - ({"text"} if keep_transcript else set())
            present = call.present(modality)
            hidden = torch.stack([call.tokens_of(other) for other in others]).any(0)
            scores = self._label_scores(call, hidden) if bool(present.any()) else self._nothing(call)
            readings[modality] = scores.softmax(-1).masked_fill(~present[:, None], float("nan"))
        return readings

    def _nothing(self, call: PromptCall) -> Tensor:
        return torch.zeros(len(call.roles), len(self.trie.labels), device=call.roles.device)

    def _label_scores(self, call: PromptCall, hidden: Tensor) -> Tensor:
        """``[B, C]`` with the ``hidden [B, L]`` tokens out of sight."""
        width, device, batch = int(call.last.max()) + 1, call.roles.device, len(call.roles)
        real, hidden = call.real[:, :width], hidden[:, :width]
        labels = self.trie.after(real, call.positions[..., :width], hidden)
        embeds = self.thinker.get_input_embeddings()(labels.ids).to(call.embeds.dtype)
        with sequence_state(
            self.thinker,
            roles=labels.extend(call.roles[:, :width], int(TokenRole.TEXT)),
            prompt_mask=labels.extend(call.prompt[:, :width], False),
            hidden=labels.extend(hidden, False),
            quiet=True,
        ):
            out = self.language_model(
                inputs_embeds=torch.cat([call.embeds[:, :width], embeds], dim=1),
                attention_mask=labels.mask,
                position_ids=labels.position_ids,
                use_cache=False,
                return_dict=True,
                **{name: _followed(value, call.roles.shape, labels, width) for name, value in call.extra.items()},
            )
        states = out.last_hidden_state
        at_end = states[torch.arange(batch, device=device), call.last][:, None]
        steps = self.thinker.get_output_embeddings()(torch.cat([at_end, states[:, width:]], dim=1))
        return self.trie.scores(steps.float().log_softmax(-1))


def _followed(value: Any, shape: torch.Size, labels: LabelTokens, width: int) -> Any:
    """What is per token (``[B, L, ...]``) is cut after the prompt and gets zeros for the label tokens."""
    if not isinstance(value, Tensor) or value.shape[:2] != shape:
        return value
    kept = value[:, :width]
    return torch.cat([kept, kept.new_zeros(*labels.ids.shape, *kept.shape[2:])], dim=1)
