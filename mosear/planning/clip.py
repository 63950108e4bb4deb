"""The longest clip that the budgets of a config admit: tokens, patches, mel frames, and what its towers take."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import nn

from mosear.backbones.media import AudioInput, VideoInput
from mosear.data.lengths import CHARACTERS_PER_TOKEN, PROMPT_TOKENS, audio_tokens, video_tokens
from mosear.data.media import MediaBudget, MediaInfo
from mosear.planning.trace import LiveBytes

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily

TRANSCRIPT_TOKENS = 64
"""Allowed for what a clip's transcript and context say."""
REASON_TOKENS = 128
"""Allowed for the reason of an answer, where answers are learned with one, and for what stands around the label."""
LARGE = 4096
SHAPES = ((LARGE, LARGE), (LARGE, LARGE * 3 // 4), (LARGE, LARGE * 9 // 16), (LARGE * 9 // 16, LARGE))
"""Frames that fill a pixel budget (width, height): which one takes most tokens depends on the patch size."""
PUBLISHED_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 3584 * 3584}
"""Least and most pixels of a frame in the published processors, for ``data.max_pixels=null``."""
PROBE_GRID = (2, 16, 16)
PROBE_MEL = 400


@dataclass(frozen=True)
class LongestClip:
    """Sizes of a clip that uses up every budget.

    Attributes:
        visual: tokens of its picture.
        audio: tokens of its sound.
        text: tokens of question, labels, transcript and answer (an estimate: no tokenizer is needed).
        answer: tokens of the longest answer that is learned, with its end token.
        nodes: inner nodes of the trie of labels, at most.
        max_tokens: longer clips are refused by name.
        seconds: of sound.
        frames: of video.
    """

    visual: int
    audio: int
    text: int
    answer: int
    nodes: int
    max_tokens: int
    seconds: float
    frames: int

    @property
    def wanted(self) -> int:
        """Tokens that the budgets allow."""
        return self.visual + self.audio + self.text

    @property
    def tokens(self) -> int:
        """Tokens that a sequence can have."""
        return min(self.wanted, self.max_tokens)

    @property
    def mel_frames(self) -> int:
        """Ten milliseconds each."""
        return round(100 * self.seconds)


def longest_clip(cfg: DictConfig, processor: Any, *, written: bool = False) -> LongestClip:
    """By the processor's own arithmetic, from ``cfg.data``.

    Args:
        cfg: of a run.
        processor: counts tokens.
        written: answers are learned as the prompt asks for them, not as labels alone.
    """
    data = cfg.data
    budget = MediaBudget(**{key: value for key, value in data.budget.items() if key != "_target_"})
    sizes: tuple[tuple[int, int], ...] = SHAPES
    seconds = budget.max_seconds
    if data.get("prepare") is not None:  # the synthetic corpus, which is known
        from mosear.data.synthetic.faces import CLIP_SECONDS

        side = data.prepare.get("size", 112)
        sizes, seconds = ((side, side),), min(seconds, CLIP_SECONDS)
    infos = [MediaInfo(True, True, seconds, width, height, None) for width, height in sizes]
    labels = [str(label) for label in data.prompt.labels]
    spelled = [-(-len(label) // CHARACTERS_PER_TOKEN) for label in labels]
    asked = len(data.prompt.question) + (sum(map(len, labels)) if data.prompt.get("list_labels") else 0)
    answer = max(spelled) + 1 + (REASON_TOKENS if written and data.prompt.get("answer_format", "word") != "word" else 0)
    return LongestClip(
        visual=max(video_tokens(info, processor, budget, data.max_pixels) for info in infos),
        audio=audio_tokens(seconds, processor),
        text=PROMPT_TOKENS + TRANSCRIPT_TOKENS + asked // CHARACTERS_PER_TOKEN + answer,
        answer=answer,
        nodes=sum(spelled),
        max_tokens=data.max_tokens,
        seconds=seconds,
        frames=budget.frame_count(seconds),
    )


def processor_of(name: str, family: type[OmniFamily], config: Any, revision: str | None = None) -> Any:
    """The checkpoint's processor if it lies on this machine, else what counts tokens in it, from the config's sizes."""
    from transformers import Qwen2VLVideoProcessor, WhisperFeatureExtractor

    from mosear.backbones.loading import source_of

    try:
        return family.processor_class().from_pretrained(source_of(name), revision=revision, local_files_only=True)
    except (OSError, ValueError):
        pass
    vision, audio = config.vision_config, config.audio_config
    processor: Any = object.__new__(family.processor_class())
    processor.video_processor = Qwen2VLVideoProcessor(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        size=dict(PUBLISHED_PIXELS),
    )
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=audio.num_mel_bins)
    return processor


@dataclass(frozen=True)
class MediaBytes:
    """Bytes of one clip's media on the device.

    Attributes:
        inputs: pixel patches and mel.
        features: what the towers return.
        towers: the most that a tower needs while it encodes, beside weights, input and output.
    """

    inputs: int
    features: int
    towers: int


def media_bytes(family: OmniFamily, clip: LongestClip, dtype: torch.dtype) -> MediaBytes:
    """Media of the longest clip. The towers are measured: one real layer each, on a small input, without weights."""
    vision, audio = family.config.vision_config, family.config.audio_config
    patches = clip.visual * vision.spatial_merge_size**2
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    video_peak, audio_peak = tower_peaks(family, dtype)
    levels = 1 + len(getattr(vision, "deepstack_visual_indexes", ()))
    features = (clip.visual * levels + clip.audio) * family.config.text_config.hidden_size * dtype.itemsize
    return MediaBytes(
        inputs=4 * (patches * patch + clip.mel_frames * audio.num_mel_bins),
        features=features,
        towers=int(max(video_peak * patches, audio_peak * clip.mel_frames)),
    )


@torch.no_grad()
def tower_peaks(family: OmniFamily, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes per patch and per mel frame while a tower runs.

    Towers run without gradients and attend inside windows and frames, so their peak is that of one layer and grows
    with the clip.
    """
    model = _shallow(family, dtype)
    time, height, width = PROBE_GRID
    patches = time * height * width
    vision = family.config.vision_config
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    video = VideoInput(torch.zeros(patches, patch), torch.tensor(PROBE_GRID), 1.0)
    audio = AudioInput(torch.zeros(family.config.audio_config.num_mel_bins, PROBE_MEL))
    with LiveBytes((*_tensors(model), video.pixels)) as memory:
        family.encode_video(model, video)
    with LiveBytes((*_tensors(model), audio.mel)) as sound:
        family.encode_audio(model, audio)
    return memory.peak / patches, sound.peak / PROBE_MEL


def _shallow(family: OmniFamily, dtype: torch.dtype) -> Any:
    """A thinker whose towers have one layer and real memory; the decoder stays on the meta device."""
    config = deepcopy(family.config)
    config.audio_config.encoder_layers, config.vision_config.depth = 1, 1
    for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if hasattr(config.vision_config, name):
            setattr(config.vision_config, name, [0])
    with torch.device("meta"):
        model: Any = family.model_class()(config).to(dtype)
    for path in family.tower_paths:
        tower: nn.Module = model.get_submodule(path).to_empty(device="cpu")
        for tensor in _tensors(tower):
            tensor.zero_()
    return model.eval()


def _tensors(module: nn.Module) -> tuple[torch.Tensor, ...]:
    return (*module.parameters(), *module.buffers())
