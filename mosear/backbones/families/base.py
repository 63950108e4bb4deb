"""The interface of a family, with the layout that the Qwen omni thinkers share as the default.

A family answers five questions: which classes load it, where the language model sits, which token ids are audio and
visual, how 3-D positions are computed, and how media features enter the language model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mosear.backbones.media import AudioInput, EncodedAudio, EncodedVideo, MediaBatch, VideoInput

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin


class OmniFamily(ABC):
    """Everything mosear knows about one family of backbones. Holds the thinker config, never weights."""

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    language_model_path: ClassVar[str] = "model.language_model"
    tower_paths: ClassVar[tuple[str, ...]] = ("model.audio_tower", "model.visual")
    separate_modalities: ClassVar[bool] = (
        True  # False = audio and visual tokens are fused: MoSE, AR and CHASE refuse it
    )

    def __init__(self, config: Any) -> None:
        self.config = config

    @staticmethod
    @abstractmethod
    def model_class() -> type[PreTrainedModel]:
        """The thinker class of transformers."""

    @staticmethod
    @abstractmethod
    def processor_class() -> type[ProcessorMixin]:
        """The processor class of transformers."""

    @staticmethod
    @abstractmethod
    def thinker_config(config: Any) -> Any:
        """The thinker's config, given the config of a full or of a thinker-only checkpoint."""

    @property
    def audio_ids(self) -> tuple[int, ...]:
        """Placeholder ids that audio features replace."""
        return (self.config.audio_token_id,)

    @property
    def visual_ids(self) -> tuple[int, ...]:
        """Placeholder ids that image or video features replace."""
        return (self.config.image_token_id, self.config.video_token_id)

    def position_ids(
        self,
        input_ids: torch.Tensor,
        videos: list[tuple[torch.Tensor, float]],
        audio_lengths: list[int],
        *,
        audio_in_video: bool = False,
    ) -> torch.Tensor:
        """3-D rotary positions of ONE unpadded sequence.

        Per sample, because transformers takes a single audio-in-video flag per batch and would give a silent clip
        beside an interleaved one wrong positions.

        Args:
            input_ids: ``[L]``.
            videos: ``(grid [3], seconds_per_grid)`` per video, in order.
            audio_lengths: mel frames per audio, in order.
            audio_in_video: whether the audio is interleaved with its video.

        Returns:
            ``[3, L]`` (time, height, width): int64, or float32 in a family whose video frames sit at fractional times.
        """
        import torch

        row = input_ids[None]
        positions, _ = self._rope_indexer().get_rope_index(
            row,
            None,
            torch.stack([grid for grid, _ in videos]) if videos else None,
            torch.ones_like(row),
            audio_in_video,
            torch.tensor(audio_lengths) if audio_lengths else None,
            torch.tensor([seconds for _, seconds in videos]) if videos else None,
        )
        return positions[:, 0]

    def _rope_indexer(self) -> Any:
        """transformers' own position code without weights: an uninitialised thinker with what that method reads."""
        if not hasattr(self, "_indexer"):
            indexer = object.__new__(self.model_class())
            object.__setattr__(indexer, "config", self.config)
            object.__setattr__(indexer, "spatial_merge_size", self.config.vision_config.spatial_merge_size)
            self._indexer = indexer
        return self._indexer

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_indexer"}

    def encode_video(self, model: PreTrainedModel, video: VideoInput) -> EncodedVideo:
        """Run the frozen visual tower on one video."""
        out = model.get_video_features(video.pixels, video_grid_thw=video.grid[None], return_dict=True)
        deepstack = tuple(level[0] for level in getattr(out, "deepstack_features", None) or ())
        return EncodedVideo(out.pooler_output[0], video.grid, video.seconds_per_grid, deepstack)

    def encode_audio(self, model: PreTrainedModel, audio: AudioInput) -> EncodedAudio:
        """Run the frozen audio tower on one audio."""
        import torch

        mask = torch.ones(1, audio.mel.shape[-1], dtype=torch.long, device=audio.mel.device)
        out = model.get_audio_features(audio.mel[None], feature_attention_mask=mask, return_dict=True)
        return EncodedAudio(out.last_hidden_state, audio.mel.shape[-1])

    def merge(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, media: MediaBatch
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Put encoded media in place of their placeholders.

        Args:
            input_ids: ``[B, L]``.
            inputs_embeds: ``[B, L, D]`` text embeddings.
            media: encoded media, flat over the batch in placeholder order.

        Returns:
            ``inputs_embeds`` with media, and extra keyword arguments for the language model.
        """
        import torch

        kinds: tuple[tuple[tuple[int, ...], Sequence[Any]], ...] = (
            (self.audio_ids, media.audios),
            (self.visual_ids, media.videos),
        )
        for ids, items in kinds:
            mask = torch.isin(input_ids, torch.tensor(ids, device=input_ids.device))
            encoded = [item.features for item in items if isinstance(item, EncodedVideo | EncodedAudio)]
            assert len(encoded) == len(items), "media must be encoded before they are merged"
            count = sum(len(features) for features in encoded)
            assert int(mask.sum()) == count, f"{int(mask.sum())} placeholders but {count} features"
            if items:
                inputs_embeds = inputs_embeds.masked_scatter(mask[..., None], torch.cat(encoded).to(inputs_embeds))
        return inputs_embeds, {}
