"""Manifests to DataLoaders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from mosear.backbones.partitioned import weights_are_partitioned
from mosear.data.cache import CacheKey, FeatureCache
from mosear.data.dataset import ClipBatch, ClipDataset, Collator, Item, MediaReader, OnBadMedia
from mosear.data.decode_process import Decoding
from mosear.data.lengths import estimate_lengths
from mosear.data.loader import ClipLoader, ResumableLoader, outlive_stop_signals
from mosear.data.manifest import Manifest, load_manifest
from mosear.data.media import MediaBudget
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.resident import ResidentMedia
from mosear.data.sample import SampleBuilder
from mosear.data.sampling import BucketBatchSampler
from mosear.data.scores import SCORE, AnswerFrom, labelled_by_score
from mosear.data.splits import WithoutReason, check_split, with_reasons

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.backbones.media import MediaBatch
    from mosear.data.clip import Clip

log = logging.getLogger(__name__)


class ClipDataModule(LightningDataModule):
    """Train, validation and test clips of one data set.

    Args:
        backbone: its processor and family shape the samples.
        prompt: what the model is asked, and the labels.
        budget: what is decoded of a clip at most.
        decode: where files are decoded, and what one may take; ``None`` = in the process that asks, without limits.
        train: manifest of the training clips, or ``None``.
        val: manifest of the validation clips, or ``None``.
        test: manifest of the test clips, or ``None``.
        root: directory that media paths are relative to; ``None`` = each manifest's own.
        val_subset: use only this subset for validation during training (``null`` = all).
        batch_size: training clips per step and process.
        eval_batch_size: validation and test clips per step and process.
        num_workers: loader processes; 0 decodes in the main process.
        on_bad_media: ``error`` stops; ``quarantine`` lists bad clips and goes on (they count as wrong in evaluation).
        cache_dir: directory of cached encoder outputs; ``None`` = no cache.
        cache_max_gb: bound of that directory.
        interleave: put the audio track inside its video's token span.
        max_pixels: pixels per frame for the backbone; ``None`` = the checkpoint's own.
        max_tokens: longest sequence; longer clips are refused by name.
        resident_mb: a split whose encoded media need at most so much memory is read once and kept; 0 keeps none.
        bucket: group clips of like length over this many batches; 1 = plain shuffling, no header is read.
        without_reason: what becomes of training clips without a reason where answers are learned with one: ``refuse``
            stops, ``leave_out`` counts them and goes on.
        answer_from: what of a clip is the answer: its ``label``, or its ``score`` as the nearest of the prompt's
            labels, which are then numbers.
        seed: of the order of the clips.
        prepare: called once before manifests are read (the synthetic corpus renders itself here).

    Attributes:
        written: training answers are as the prompt asks for them, reasons included; else labels alone. What trains says
            so before the first batch.
        check: refuses a manifest that cannot be trained or tested on.
    """

    def __init__(
        self,
        *,
        backbone: OmniBackbone,
        prompt: Prompt,
        budget: MediaBudget,
        decode: Decoding | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        root: str | None = None,
        val_subset: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 32,
        num_workers: int = 2,
        on_bad_media: OnBadMedia = "error",
        cache_dir: str | None = None,
        cache_max_gb: float = 50.0,
        interleave: bool = False,
        max_pixels: int | None = None,
        max_tokens: int = 8192,
        resident_mb: float = 1024.0,
        bucket: int = 50,
        without_reason: WithoutReason = "refuse",
        answer_from: AnswerFrom = "label",
        seed: int = 0,
        prepare: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.prompt, self.budget = backbone, prompt, budget
        self.paths = {"train": train, "val": val, "test": test}
        self.root, self.val_subset = root, val_subset
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.on_bad_media, self.max_pixels, self.bucket, self.seed = on_bad_media, max_pixels, bucket, seed
        self.prepare, self.without_reason, self.written = prepare, without_reason, False
        self.answer_from = answer_from
        self.decoder = (decode or Decoding(mode="inline")).decoder()
        self.cache = FeatureCache(cache_dir, max_gb=cache_max_gb) if cache_dir else None
        self.media_processor = MediaProcessor(backbone.processor, max_pixels=max_pixels)
        self.builder = SampleBuilder(
            backbone.processor, backbone.family, prompt, interleave=interleave, max_tokens=max_tokens
        )
        self.max_resident_bytes = int(resident_mb * 2**20)
        self.check: Callable[[Manifest], None] = lambda manifest: check_split(manifest, self.prompt.labels)
        self.manifests: dict[str, Manifest] = {}
        self.resident: dict[str, ResidentMedia] = {}

    def prepare_data(self) -> None:
        """Render or check what the manifests need (once, on one process)."""
        if self.prepare is not None:
            self.prepare()

    def manifest(self, split: str) -> Manifest:
        """The clips of ``train``, ``val`` or ``test``, checked against the label set."""
        if split not in self.manifests:
            path = self.paths[split]
            if path is None:
                raise ValueError(f"No {split} manifest: set data.{split}=PATH to a .parquet or .jsonl manifest.")
            subset = self.val_subset if split == "val" else None
            manifest = load_manifest(path, root=self.root, subset=subset)
            if self.answer_from == SCORE:
                manifest = labelled_by_score(manifest, self.prompt.labels)
            self.check(manifest)
            if split == "train" and self.written and self.prompt.writes_reasons:
                manifest = with_reasons(manifest, self.without_reason)
            self.manifests[split] = manifest
        return self.manifests[split]

    def reader(self, manifest: Manifest, resident: ResidentMedia | None = None) -> MediaReader:
        """Media of a manifest's clips, from memory or through the cache when there is one."""
        # The key names the device, which is known only now: the trainer moves the backbone after this object was made.
        key = CacheKey.of(self.backbone, self.budget, self.max_pixels) if self.cache else None
        return MediaReader(manifest, self.media_processor, self.budget, self.cache, key, resident, decoder=self.decoder)

    def dataset(self, split: str, *, with_answer: bool) -> ClipDataset:
        """The samples of a split."""
        manifest = self.manifest(split)
        return ClipDataset(
            manifest,
            self.reader(manifest, self._resident(split)),
            self.builder,
            with_answer=with_answer,
            written=self.written,
            on_bad_media=self.on_bad_media,
        )

    def keep(self, batch: ClipBatch, media: Sequence[MediaBatch]) -> None:
        """Encoded media of a batch: in the cache what it lacks, and all of it in memory where the split fits."""
        assert batch.data is not None
        for name, own in zip(batch.cache_names, media, strict=True):
            if self.cache is not None and name is not None:
                self.cache.put(name, own)
        if batch.resident is not None:
            batch.resident.keep(batch.data.clips, media, {clip.id for clip, _ in batch.cut})

    def _resident(self, split: str) -> ResidentMedia:
        if split not in self.resident:
            self.resident[split] = ResidentMedia(self.max_resident_bytes, len(self.manifest(split)))
        return self.resident[split]

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled batches with answers; the order is a function of (seed, epoch)."""
        dataset = self.dataset("train", with_answer=True)
        trainer = self.trainer
        sampler = BucketBatchSampler(
            self._lengths(dataset),
            self.batch_size,
            seed=self.seed,
            bucket=self.bucket,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if len(dataset) < (step := sampler.batch_size * sampler.world_size):
            log.warning(
                "%d training clips are fewer than the %d of a step (data.batch_size times processes): some of them are "
                "in it several times.",
                len(dataset),
                step,
            )
        if trainer is not None:
            sampler.set_epoch(trainer.current_epoch)
        return ResumableLoader(dataset, batch_sampler=sampler, **self._loader_options("train", range(len(dataset))))

    def val_dataloader(self) -> DataLoader[Item]:
        """Validation prompts in manifest order."""
        return self.eval_loader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """Test prompts in manifest order."""
        return self.eval_loader("test")

    def eval_loader(self, split: str, *, at_most: int | None = None) -> DataLoader[Item]:
        """Prompts without answers, in manifest order: the same batches in training and in evaluation.

        Args:
            split: train, val or test.
            at_most: only so many clips, drawn by ``seed``.
        """
        dataset: Dataset[Item] = self.dataset(split, with_answer=False)
        size = len(self.manifest(split))
        chosen: Sequence[int] = range(size)
        if at_most is not None:  # not every nth: manifests often repeat labels or speakers in turn
            chosen = sorted(np.random.default_rng(self.seed).permutation(size)[:at_most].tolist())
        chosen = self._own_share(split, chosen)
        if len(chosen) < size:
            dataset = Subset(dataset, chosen)
        return ClipLoader(dataset, batch_size=self.eval_batch_size, **self._loader_options(split, chosen))

    def _own_share(self, split: str, chosen: Sequence[int]) -> Sequence[int]:
        """This process's clips of an evaluation: no clip twice, so the shares may differ by one.

        With partitioned weights every process evaluates all clips: processes gather weights in step, and those with
        other clips would run other passes.
        """
        if self.trainer is None or self.trainer.world_size == 1 or weights_are_partitioned():
            return chosen
        if len(chosen) < self.trainer.world_size:
            raise ValueError(
                f"{len(chosen)} {split} clips cannot be shared by {self.trainer.world_size} processes. Use more clips "
                f"(data.{split}) or fewer processes."
            )
        return chosen[self.trainer.global_rank :: self.trainer.world_size]

    def sources(self, clip: Clip, split: str = "test") -> tuple[Path | None, Path | str | None]:
        """Media files of a clip (for thumbnails)."""
        return self.manifest(split).resolve(clip)

    def _lengths(self, dataset: ClipDataset) -> list[int]:
        if self.bucket == 1:
            return [1] * len(dataset)
        return estimate_lengths(
            dataset.manifest,
            dataset.reader.sources,
            self.backbone.processor,
            self.budget,
            self.max_pixels,
            self.decoder,
        )

    def _loader_options(self, split: str, chosen: Sequence[int]) -> dict[str, Any]:
        manifest = self.manifest(split)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {
            "resident": self._resident(split),
            "clip_ids": [manifest[index].id for index in chosen],
            "num_workers": self.num_workers,
            "collate_fn": Collator(self.builder.pad_id),
            "pin_memory": on_gpu,
            "persistent_workers": False,
            "worker_init_fn": outlive_stop_signals if self.num_workers else None,
            "prefetch_factor": 4 if self.num_workers else None,
        }
