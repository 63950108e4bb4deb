"""A frozen omni-modal language model behind a small, family-blind interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mosear.backbones.media import EncodedAudio, EncodedVideo, MediaBatch
from mosear.roles import token_roles

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, ProcessorMixin

    from mosear.backbones.families.base import OmniFamily


@dataclass
class OmniBackbone:
    """A thinker, its processor and its family.

    The model is frozen. Adapters are injected into ``model`` in place (PEFT), so ``hidden_states`` runs them as well.

    Attributes:
        name: what the user asked for (``tiny-omni``, a path or a hub id).
        model: the thinker (``*ThinkerForConditionalGeneration``).
        processor: the real processor of the checkpoint.
        family: where things sit in this family.
    """

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin
    family: OmniFamily

    @property
    def language_model(self) -> nn.Module:
        """The decoder without its head."""
        return self.model.get_submodule(self.family.language_model_path)

    @property
    def lm_head(self) -> nn.Module:
        """Hidden states ``[.., D]`` to vocabulary logits ``[.., V]``."""
        return self.model.lm_head

    @property
    def device(self) -> torch.device:
        """Device of the embedding table."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the hidden states."""
        return self.model.get_input_embeddings().weight.dtype

    def roles(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``LongTensor [B, L]`` of :class:`mosear.roles.TokenRole`."""
        return token_roles(
            input_ids, attention_mask, audio_ids=self.family.audio_ids, visual_ids=self.family.visual_ids
        )

    def freeze(self) -> OmniBackbone:
        """No parameter of the backbone trains; dropout of the towers is off."""
        self.model.requires_grad_(False)
        self.model.eval()
        return self

    def towers_eval(self) -> None:
        """Put the towers back in eval mode (``model.train()`` switches every submodule)."""
        for path in self.family.tower_paths:
            self.model.get_submodule(path).eval()

    @torch.no_grad()
    def encode(self, media: MediaBatch) -> MediaBatch:
        """Run the frozen towers where needed; encoded media pass through.

        One clip at a time: the towers are not bitwise batch-invariant, and a clip's features must not depend on its
        batch mates (nor on whether they came from the cache).
        """
        family, model = self.family, self.model
        # In the weights' own precision: what the cache keeps must not depend on a trainer's mixed precision.
        with torch.autocast(self.device.type, enabled=False):
            videos = [v if isinstance(v, EncodedVideo) else family.encode_video(model, v) for v in media.videos]
            audios = [a if isinstance(a, EncodedAudio) else family.encode_audio(model, a) for a in media.audios]
        return MediaBatch(videos, audios)

    def embed(self, input_ids: Tensor, media: MediaBatch) -> tuple[Tensor, dict[str, Any]]:
        """Token embeddings with media in place: ``[B, L, D]`` and extra arguments for the language model."""
        with torch.no_grad():
            inputs_embeds = self.model.get_input_embeddings()(input_ids)
            return self.family.merge(input_ids, inputs_embeds, self.encode(media))

    def hidden_states(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Cache | None = None,
        **extra: Any,
    ) -> Tensor:
        """Run the decoder: ``[B, L, D]`` (final norm applied, no head).

        Args:
            inputs_embeds: ``[B, L, D]``.
            attention_mask: ``[B, K]`` with 0 on padding, or boolean ``[B, 1, L, K]`` with True where a query may look.
            position_ids: ``[3, B, L]``, always explicit: the thinker's ``rope_deltas`` is module state that foreign
                passes overwrite.
            past_key_values: filled in place when given.
            extra: what :meth:`embed` returned.
        """
        out = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            **extra,
        )
        return out.last_hidden_state
