"""Clips to samples, in the workers of a DataLoader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import Dataset

from mosear.backbones.media import MediaBatch
from mosear.data.cache.store import CacheKey, FeatureCache
from mosear.data.clip import Clip
from mosear.data.container import check_is_file
from mosear.data.decode_process import Decoder, InlineDecoder
from mosear.data.manifest import Manifest
from mosear.data.media import MediaBudget, MediaError, probe
from mosear.data.media_processor import MediaProcessor
from mosear.data.resident import ResidentMedia
from mosear.data.sample import OmniBatch, Sample, SampleBuilder, TooLongError, collate

OnBadMedia = Literal["error", "quarantine"]


class BadClipError(ValueError):
    """A run stops at a clip that cannot be used."""


@dataclass(frozen=True)
class BadClip:
    """A clip that could not be used, and why: the cause of a :class:`MediaError`, or ``too_long``."""

    clip: Clip
    cause: str
    message: str


@dataclass(frozen=True)
class Item:
    """One position of the data set: a sample or a bad clip.

    Attributes:
        sample: if the clip is good.
        bad: clips that are not.
        cache_name: the cache entry that the sample's media still lack.
        cut_at: where the budget cuts the clip, in seconds; ``None`` if it does not.
    """

    sample: Sample | None
    bad: tuple[BadClip, ...] = ()
    cache_name: str | None = None
    cut_at: float | None = None


@dataclass(frozen=True)
class ClipBatch:
    """What a training or evaluation step receives.

    Attributes:
        data: padded samples, or ``None`` if every clip was bad.
        bad: clips left out of ``data``.
        cache_names: per clip of ``data``, the entry to write once its media are encoded (``None``: nothing to write).
        cut: clips of ``data`` that are longer than the budget allows, with the seconds that were used.
        resident: where to keep the media once they are encoded.
    """

    data: OmniBatch | None
    bad: list[BadClip] = field(default_factory=list)
    cache_names: list[str | None] = field(default_factory=list)
    cut: list[tuple[Clip, float]] = field(default_factory=list)
    resident: ResidentMedia | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """Move the tensors to ``device``."""
        return replace(self, data=self.data.to(device, non_blocking) if self.data is not None else None)

    def pin_memory(self) -> ClipBatch:
        """Pin the tensors."""
        return replace(self, data=self.data.pin_memory() if self.data is not None else None)

    def __len__(self) -> int:
        return len(self.bad) + (len(self.data) if self.data is not None else 0)


@dataclass(frozen=True)
class ReadMedia:
    """Media of a clip.

    Attributes:
        media: tower inputs, or what the cache holds.
        cache_name: of the cache entry that should be written from them; ``None`` = none.
        cut: whether the file goes on after the budget's ``max_seconds``.
    """

    media: MediaBatch
    cache_name: str | None = None
    cut: bool = False


class MediaReader:
    """Media of a clip: from the cache, or decoded and processed.

    Args:
        manifest: resolves paths below its root.
        processor: decoded media to tower inputs.
        budget: what is decoded at most.
        cache: with ``key``, encoder outputs to use instead of decoding.
        key: the cache's key space.
        resident: encoded media of the manifest's clips that are in memory.
        decoder: decodes the files; ``None`` = in this process.
    """

    def __init__(
        self,
        manifest: Manifest,
        processor: MediaProcessor,
        budget: MediaBudget,
        cache: FeatureCache | None = None,
        key: CacheKey | None = None,
        resident: ResidentMedia | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        assert (cache is None) == (key is None), "a cache needs its key space, and the other way round"
        expected = processor.processor.feature_extractor.sampling_rate
        if budget.audio_rate != expected:
            raise ValueError(f"budget.audio_rate={budget.audio_rate} must be {expected}, the backbone's sampling rate.")
        self.manifest, self.processor, self.budget = manifest, processor, budget
        self.cache, self.key, self.resident = cache, key, resident
        self.decoder = decoder or InlineDecoder()

    def __call__(self, clip: Clip) -> tuple[MediaBatch, str | None]:
        """The media, and the name of the cache entry that should be written from them (``None``: none)."""
        found = self.read(clip)
        return found.media, found.cache_name

    def read(self, clip: Clip) -> ReadMedia:
        """The media, and what is known about them.

        Raises:
            MediaError: if a file is missing, broken, over budget or nothing that the backbone could read.
        """
        if self.resident is not None and (kept := self.resident.get(clip.id)) is not None:
            return ReadMedia(kept[0], cut=kept[1])
        video, audio = self.sources(clip)
        if video is None and audio is None:
            return ReadMedia(MediaBatch())
        name = None
        if self.cache is not None:
            name = self.entry(clip)
            if (cached := self.cache.get(name)) is not None:
                files = [path for path in (video, audio) if isinstance(path, Path)]
                # Here, not by the decoder: files with these bytes have been decoded before.
                return ReadMedia(cached, cut=any(probe(path).is_cut(self.budget) for path in files))
        media = self.decoder.decode(video, audio, self.budget)
        try:
            return ReadMedia(self.processor(media), name, media.cut)
        except ValueError as error:
            raise MediaError(str(video or audio), "unsuitable", str(error)) from error

    def sources(self, clip: Clip) -> tuple[Path | None, Path | Literal["video"] | None]:
        """Files to read: video, and audio (``"video"`` = the track of the video file)."""
        return self.manifest.resolve(clip)

    def entry(self, clip: Clip) -> str:
        """Name of the clip's cache entry. Reads the media files once, for their hashes."""
        assert self.key is not None
        sources = self.sources(clip)
        try:
            for source in sources:
                if isinstance(source, Path):
                    check_is_file(source)
            return self.key.entry(*sources)
        except OSError as error:
            raise MediaError(str(error.filename or clip.id), "unreadable", error.strerror or str(error)) from error


class ClipDataset(Dataset[Item]):
    """A manifest as samples.

    Args:
        manifest: the clips.
        reader: gets their media.
        builder: assembles prompts.
        with_answer: append the answer (training) or stop after the prompt (evaluation).
        written: the answer as the prompt asks for it, with the clip's reason; else the label alone.
        on_bad_media: ``error`` raises, naming clip and file; ``quarantine`` reports the clip instead. In training its
            place is taken by the next good clip, so a batch keeps its size on every process.
    """

    def __init__(
        self,
        manifest: Manifest,
        reader: MediaReader,
        builder: SampleBuilder,
        *,
        with_answer: bool,
        written: bool = False,
        on_bad_media: OnBadMedia = "error",
    ) -> None:
        self.manifest, self.reader, self.builder, self.written = manifest, reader, builder, written
        self.with_answer, self.on_bad_media = with_answer, on_bad_media

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Item:
        bad: list[BadClip] = []
        for step in range(len(self) if self.with_answer else 1):
            clip = self.manifest[(index + step) % len(self)]
            try:
                return replace(self._item(clip), bad=tuple(bad))
            except (MediaError, TooLongError) as error:
                if self.on_bad_media == "error":
                    named = "" if isinstance(error, TooLongError) else f"Clip {clip.id!r}: "
                    raise BadClipError(
                        f"{named}{error} To go on without bad clips (they are listed, and count as wrong "
                        "in evaluation), set data.on_bad_media=quarantine."
                    ) from error
                bad.append(BadClip(clip, error.cause, str(error)))
        if self.with_answer:
            raise BadClipError(f"None of the {len(self)} training clips has usable media; the first: {bad[0].message}")
        return Item(None, tuple(bad))

    def _item(self, clip: Clip) -> Item:
        found = self.reader.read(clip)
        sample = self.builder.build(clip, found.media, answer=self._answer(clip))
        cut_at = self.reader.budget.max_seconds if found.cut else None
        return Item(sample, cache_name=found.cache_name, cut_at=cut_at)

    def _answer(self, clip: Clip) -> str | None:
        if not self.with_answer or clip.label is None or not self.written:
            return clip.label if self.with_answer else None
        return self.builder.written(clip.label, clip.reason)


class Collator:
    """Items to a batch (picklable, for spawned workers)."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, items: Sequence[Item]) -> ClipBatch:
        good = [item for item in items if item.sample is not None]
        data = collate([item.sample for item in good if item.sample is not None], self.pad_id) if good else None
        bad = [bad for item in items for bad in item.bad]
        cut = [(item.sample.clip, item.cut_at) for item in good if item.sample is not None and item.cut_at is not None]
        return ClipBatch(data, bad, [item.cache_name for item in good], cut)
