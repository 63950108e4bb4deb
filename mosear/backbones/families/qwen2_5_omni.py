"""Qwen2.5-Omni (3B, 7B, and the embedded tiny-omni): the thinker alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mosear.backbones.families.base import OmniFamily

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


class Qwen25Omni(OmniFamily):
    """Dense Qwen2 decoder; video patches at 2-frame steps; 25 audio tokens a second."""

    name = "qwen2_5_omni"
    model_types = ("qwen2_5_omni", "qwen2_5_omni_thinker")

    @staticmethod
    def model_class() -> type[PreTrainedModel]:
        """``Qwen2_5OmniThinkerForConditionalGeneration``."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration

    @staticmethod
    def processor_class() -> type[ProcessorMixin]:
        """``Qwen2_5OmniProcessor``."""
        from transformers import Qwen2_5OmniProcessor

        return Qwen2_5OmniProcessor

    @staticmethod
    def thinker_config(config: Any) -> Any:
        """The thinker part of a full config; a thinker config passes through."""
        return getattr(config, "thinker_config", config)
