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

ALIGNMENT = 16
"""Bytes at a multiple of which a packed tensor begins: a view of any type may."""


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

    def pin_memory(self) -> MediaBatch:
        """Pin every tensor for asynchronous copies to an accelerator."""
        content, videos, audios = _packed(self)
        return _unpacked(content.pin_memory(), videos, audios)

    def map(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> MediaBatch:
        """The same media with other tensors."""
        return MediaBatch([_map_tensors(v, fn) for v in self.videos], [_map_tensors(a, fn) for a in self.audios])

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes all tensors travel as one: a segment of shared memory each costs more than its content."""
        return _unpacked, _packed(self)


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies among the bytes of all; stands in its stead in packed media."""

    start: int
    shape: torch.Size
    dtype: torch.dtype


def _packed(media: MediaBatch) -> tuple[torch.Tensor, Sequence[Any], Sequence[Any]]:
    """Bytes of all tensors, one behind the other, and videos and audios with a :class:`_Place` for each."""
    import torch

    pieces: list[torch.Tensor] = []
    end = 0

    def take(tensor: torch.Tensor) -> _Place:
        nonlocal end
        place = _Place(end, tensor.shape, tensor.dtype)
        content = tensor.detach().contiguous().view(-1).view(torch.uint8)
        padding = -len(content) % ALIGNMENT
        pieces.extend((content, content.new_zeros(padding)))
        end += len(content) + padding
        return place

    places = media.map(take)  # type: ignore[arg-type]
    # In shared memory from the start: else the pickler copies everything once more.
    shared = torch.utils.data.get_worker_info() is not None and end > 0
    content = torch.empty(0, dtype=torch.uint8)
    content = content.set_(torch.UntypedStorage._new_shared(end)) if shared else content  # as torch's default_collate
    return torch.cat(pieces, out=content) if pieces else content, places.videos, places.audios


def _unpacked(content: torch.Tensor, videos: Sequence[Any], audios: Sequence[Any]) -> MediaBatch:
    """The media, whose tensors are views of ``content``."""

    def view(place: _Place) -> torch.Tensor:
        size = place.shape.numel() * place.dtype.itemsize
        return content[place.start : place.start + size].view(place.dtype).view(place.shape)

    return MediaBatch(videos, audios).map(view)  # type: ignore[arg-type]


def _map_tensors(item: Any, fn: Callable[[Any], Any]) -> Any:
    import torch

    changed: dict[str, Any] = {}
    for f in fields(item):
        value = getattr(item, f.name)
        if isinstance(value, torch.Tensor | _Place):
            changed[f.name] = fn(value)
        elif isinstance(value, tuple):
            changed[f.name] = tuple(fn(v) for v in value)
    return replace(item, **changed)
