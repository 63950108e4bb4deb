"""Fills the cache ahead of a run: workers read and decode, the main process encodes and writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch.utils.data import ConcatDataset, DataLoader, Dataset

from mosear.backbones.media import MediaBatch
from mosear.data.cache.store import CacheKey, FeatureCache
from mosear.data.dataset import BadClip, MediaReader
from mosear.data.decode_process import Decoding
from mosear.data.media import MediaBudget, MediaError
from mosear.data.media_processor import MediaProcessor

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.manifest import Manifest


@dataclass
class BuildReport:
    """What a build did, clip by clip.

    Attributes:
        new: clips whose entry was written.
        present: clips whose entry was there (also when another clip with the same media had just brought it).
        text_only: clips without media, for which there is nothing to cache.
        bad: clips whose media could not be used, and why.
        entry_bytes: size of each entry of these clips, by name.
        evicted: entries that had to go to keep the cache's bound.
    """

    new: int = 0
    present: int = 0
    text_only: int = 0
    bad: list[BadClip] = field(default_factory=list)
    entry_bytes: dict[str, int] = field(default_factory=dict)
    evicted: int = 0

    @property
    def total_bytes(self) -> int:
        """Size of all entries of these clips."""
        return sum(self.entry_bytes.values())


@dataclass(frozen=True)
class _Reading:
    """What a worker found: media to encode, or their entry's size if it is there, or a bad clip, or nothing to read."""

    name: str | None = None
    media: MediaBatch | None = None
    present_bytes: int = 0
    bad: BadClip | None = None


class _Readings(Dataset[_Reading]):
    def __init__(self, reader: MediaReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader.manifest)

    def __getitem__(self, index: int) -> _Reading:
        clip = self.reader.manifest[index]
        if self.reader.sources(clip) == (None, None):
            return _Reading()
        try:
            media, missing = self.reader(clip)
        except MediaError as error:
            return _Reading(bad=BadClip(clip, error.cause, str(error)))
        if missing is not None:
            return _Reading(missing, media)
        # The entry has just been read, so it is whole; its tensors need not travel to the main process.
        assert self.reader.cache is not None
        name = self.reader.entry(clip)
        return _Reading(name, present_bytes=self.reader.cache.entry_size(name))


def build_cache(
    backbone: OmniBackbone,
    manifests: Sequence[Manifest],
    cache: FeatureCache,
    budget: MediaBudget,
    *,
    max_pixels: int | None = None,
    workers: int = 0,
    decode: Decoding | None = None,
    advance: Callable[[], None] = lambda: None,
) -> BuildReport:
    """Write the entry of every clip that has none. Interrupted builds go on where they stopped.

    Args:
        backbone: its towers encode; with ``budget`` and ``max_pixels`` it makes the key, as in ``ClipDataModule``.
        manifests: the clips.
        cache: where entries go.
        budget: what is decoded of a clip at most.
        max_pixels: pixels per frame for the backbone; ``None`` = the checkpoint's own.
        workers: reading processes; 0 reads in this one.
        decode: where files are decoded; ``None`` = in the process that reads.
        advance: called after each clip (a progress bar).
    """
    key = CacheKey.of(backbone, budget, max_pixels)
    processor = MediaProcessor(backbone.processor, max_pixels=max_pixels)
    decoder = (decode or Decoding(mode="inline")).decoder()
    readings: ConcatDataset[_Reading] = ConcatDataset(
        [_Readings(MediaReader(manifest, processor, budget, cache, key, decoder=decoder)) for manifest in manifests]
    )
    report = BuildReport()
    evicted_before = cache.evicted
    for (reading,) in DataLoader(readings, batch_size=1, num_workers=workers, collate_fn=tuple):
        _store(reading, backbone, cache, report)
        advance()
    decoder.close()
    report.evicted = cache.evicted - evicted_before
    return report


def _store(reading: _Reading, backbone: OmniBackbone, cache: FeatureCache, report: BuildReport) -> None:
    if reading.bad is not None:
        report.bad.append(reading.bad)
    elif reading.name is None:
        report.text_only += 1
    elif reading.media is None or reading.name in report.entry_bytes:
        report.present += 1
        report.entry_bytes.setdefault(reading.name, reading.present_bytes)
    else:
        written = cache.put(reading.name, backbone.encode(reading.media.to(backbone.device)))
        report.new += 1
        report.entry_bytes[reading.name] = written
