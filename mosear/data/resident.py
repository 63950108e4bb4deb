"""Encoded media of a split that stay in memory, so that only its first pass reads files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from mosear.backbones.media import MediaBatch

if TYPE_CHECKING:
    from mosear.data.clip import Clip


class ResidentMedia:
    """Encoded media by clip id. A split that turns out not to fit is dropped as a whole: part of it would save little.

    Args:
        max_bytes: of the split.
        clips: in the split.
    """

    def __init__(self, max_bytes: int, clips: int) -> None:
        self.max_bytes, self.clips = max_bytes, clips
        self.bytes = 0
        self.fits = max_bytes > 0
        self._kept: dict[str, tuple[MediaBatch, bool]] = {}

    def keep(self, clips: Sequence[Clip], media: Sequence[MediaBatch], cut: Collection[str]) -> None:
        """Keep what has been encoded, in the memory of the CPU.

        Args:
            clips: of a batch.
            media: of each.
            cut: ids of those that the budget cuts.
        """
        for clip, own in zip(clips, media, strict=True):
            if not self.fits:
                break
            if clip.id not in self._kept:
                # Tensors of their own: a view would keep the whole batch.
                copied = own.map(lambda tensor: tensor.detach().to("cpu", copy=True))
                self._kept[clip.id] = copied, clip.id in cut
                self.bytes += _bytes(copied)
                self.fits = self.bytes <= self.max_bytes and self._expected() <= self.max_bytes
        if not self.fits:
            self._kept.clear()

    def get(self, clip_id: str) -> tuple[MediaBatch, bool] | None:
        """Media of a clip and whether the budget cuts it, or ``None``."""
        return self._kept.get(clip_id)

    def holds(self, clip_ids: Iterable[str]) -> bool:
        """Are all of these clips here?"""
        return all(name in self._kept for name in clip_ids)

    def wants(self, clips: Sequence[Clip]) -> bool:
        """Is it worth calling :meth:`keep` with them?"""
        return self.fits and not self.holds(clip.id for clip in clips)

    def _expected(self) -> float:
        """Bytes of the whole split, once enough clips are known to tell."""
        return self.bytes / len(self._kept) * self.clips if len(self._kept) >= min(32, self.clips) else 0.0


def _bytes(media: MediaBatch) -> int:
    sizes: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    media.map(count)
    return sum(sizes)
