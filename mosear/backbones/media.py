"""What enters the towers and what leaves them: the two media containers of a batch.

Both are flat over the batch (all videos, all audios, in the order in which their placeholders appear), because that is
how the thinkers consume them. Encoded features can be cached; inputs cannot (they are large and depend on budgets).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VideoInput:
    """One video after the video processor.

    Attributes:
        pixels: ``[patches, channels * temporal * height * width]``.
        grid: ``[3]`` (time, height, width) in patches.
        seconds_per_grid: seconds that one temporal patch covers.
    """

    pixels: torch.Tensor
    grid: torch.Tensor
    seconds_per_grid: float


@dataclass(frozen=True)
class AudioInput:
    """One audio after the mel extractor: ``mel [bins, frames]``, without padding."""

    mel: torch.Tensor


@dataclass(frozen=True)
class EncodedVideo:
    """One video after the frozen tower.

    Attributes:
        features: ``[tokens, hidden]``.
        grid: as in :class:`VideoInput`.
        seconds_per_grid: as in :class:`VideoInput`.
        deepstack: one ``[tokens, hidden]`` per DeepStack layer (Qwen3-Omni), else empty.
    """

    features: torch.Tensor
    grid: torch.Tensor
    seconds_per_grid: float
    deepstack: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class EncodedAudio:
    """One audio after the frozen tower: ``features [tokens, hidden]`` and the mel length it came from."""

    features: torch.Tensor
    mel_frames: int


@dataclass(frozen=True)
class MediaBatch:
    """All media of a batch, each either raw (``*Input``) or already encoded (``Encoded*``)."""

    videos: Sequence[VideoInput | EncodedVideo] = ()
    audios: Sequence[AudioInput | EncodedAudio] = ()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> MediaBatch:
        """Move every tensor to ``device``."""
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))

    def map(self, fn: Callable[[Any], Any]) -> MediaBatch:
        """The same media with something else in the place of every tensor (or of every packed one)."""
        return MediaBatch([_map_tensors(v, fn) for v in self.videos], [_map_tensors(a, fn) for a in self.audios])


def _map_tensors(item: Any, fn: Callable[[Any], Any]) -> Any:
    import torch

    from mosear.tensor_buffer import Place

    changed: dict[str, Any] = {}
    for f in fields(item):
        value = getattr(item, f.name)
        if isinstance(value, torch.Tensor | Place):
            changed[f.name] = fn(value)
        elif isinstance(value, tuple):
            changed[f.name] = tuple(fn(v) for v in value)
    return replace(item, **changed)
