"""Qwen3-Omni-MoE (30B-A3B): the thinker alone.

Two differences matter. Visual features enter several decoder layers (DeepStack), so a cache must keep those too. The
experts are 3-D parameters, not ``nn.Linear``, so adapters target the attention projections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mosear.backbones.families.base import OmniFamily
from mosear.backbones.media import EncodedVideo, MediaBatch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin


class Qwen3OmniMoe(OmniFamily):
    """Sparse Qwen3 decoder with DeepStack visual features."""

    name = "qwen3_omni_moe"
    model_types = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")

    @staticmethod
    def model_class() -> type[PreTrainedModel]:
        """``Qwen3OmniMoeThinkerForConditionalGeneration``."""
        from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

        return Qwen3OmniMoeThinkerForConditionalGeneration

    @staticmethod
    def processor_class() -> type[ProcessorMixin]:
        """``Qwen3OmniMoeProcessor``."""
        from transformers import Qwen3OmniMoeProcessor

        return Qwen3OmniMoeProcessor

    @staticmethod
    def thinker_config(config: Any) -> Any:
        """The thinker part of a full config; a thinker config passes through."""
        return getattr(config, "thinker_config", config)

    def merge(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, media: MediaBatch
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """As the base, and hand the DeepStack features to the decoder layers that add them."""
        import torch

        inputs_embeds, extra = super().merge(input_ids, inputs_embeds, media)
        if media.videos:
            levels = zip(*(video.deepstack for video in media.videos if isinstance(video, EncodedVideo)), strict=True)
            extra["deepstack_visual_embeds"] = [torch.cat(level).to(inputs_embeds) for level in levels]
            extra["visual_pos_masks"] = torch.isin(input_ids, torch.tensor(self.visual_ids, device=input_ids.device))
        return inputs_embeds, extra
