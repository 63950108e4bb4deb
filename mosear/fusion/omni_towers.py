"""``features=omni_towers``: what the frozen towers of an omni-modal backbone put out, and its text embeddings.

    video   [T, D]  tokens of the vision tower; their mean per time step with ``video: steps``
    audio   [T, D]  tokens of the audio tower
    text    [T, D]  embeddings of the transcript's tokens, without a template

Tower outputs come from the feature cache that omni systems use (``data.cache_dir``), whose key names the backbone's
weights and the budgets; what it lacks is decoded, encoded and written to it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from mosear.backbones.media import EncodedVideo, MediaBatch
from mosear.backbones.published import known_config
from mosear.data.batches import split_media
from mosear.data.cache.store import CacheKey
from mosear.data.clip import Clip
from mosear.data.dataset import BadClip, ClipBatch
from mosear.fusion.source import Features, FeatureTable, usable
from mosear.fusion.table_cache import kept, table_name
from mosear.roles import MODALITIES

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.datamodule import ClipDataModule
    from mosear.data.manifest import Manifest

log = logging.getLogger(__name__)

TABLES = "tables"
"""Below ``data.cache_dir``."""


class OmniTowers:
    """Features of a backbone's towers.

    Args:
        cfg: of the run: ``backbone`` and ``data``.
        accept: what keeps a clip from being used by the task.
        video: ``steps`` takes the mean of each time step's tokens, ``tokens`` all of them.
        max_text: tokens of a transcript; what is behind them is cut.
    """

    def __init__(
        self,
        cfg: DictConfig,
        accept: Callable[[Clip], str | None],
        *,
        video: Literal["steps", "tokens"] = "steps",
        max_text: int = 128,
    ) -> None:
        if video not in ("steps", "tokens"):
            raise ValueError(f"video={video!r} must be 'steps' or 'tokens'.")
        self.accept, self.video, self.max_text = accept, video, max_text
        self.backbone: OmniBackbone = instantiate(cfg.backbone)
        if torch.cuda.is_available() and cfg.trainer.get("accelerator") in ("gpu", "cuda"):
            self.backbone.model.to(torch.device("cuda", torch.cuda.current_device()))
        self.width = int(self.backbone.model.get_input_embeddings().weight.shape[1])
        self.data: ClipDataModule = instantiate(cfg.data, _partial_=True, _convert_="all")(
            backbone=self.backbone, prepare=None
        )
        self.data.check = lambda manifest: None  # labels are the task's affair
        self._tables: dict[str, FeatureTable] = {}

    @staticmethod
    def planned_dimensions(cfg: DictConfig) -> Mapping[str, int]:
        """Widths, from the backbone's config alone."""
        raw = known_config(cfg.backbone.name, cfg.backbone.get("revision"))
        width = int(raw.get("thinker_config", raw)["text_config"]["hidden_size"])
        return dict.fromkeys(MODALITIES, width)

    @property
    def dimensions(self) -> Mapping[str, int]:
        """All as wide as the language model."""
        return dict.fromkeys(MODALITIES, self.width)

    def about(self) -> Mapping[str, Any]:
        """The backbone."""
        return {"features": f"towers of {self.backbone.name}", "backbone": self.backbone.name}

    def table(self, split: str) -> FeatureTable:
        """Read or encode every clip of a split, once."""
        if split not in self._tables:
            manifest = self.data.manifest(split)
            usable(manifest, self.accept, split)
            bad: list[BadClip] = []
            with torch.random.fork_rng(devices=[]):  # loaders draw: a run must not depend on whether they are needed
                found = kept(self._file(manifest), list(manifest), self.dimensions, lambda: self._made(split, bad))
            if bad:
                log.warning("%d of %d %s clips have media that could not be read.", len(bad), len(manifest), split)
            clips = [clip for clip in manifest if clip.id in found]
            self._tables[split] = FeatureTable(clips, self.dimensions, lambda row: found[clips[row].id], bad)
        return self._tables[split]

    def _file(self, manifest: Manifest) -> Path | None:
        if self.data.cache is None:
            return None
        return self.data.cache.root / TABLES / f"{table_name(*self._made_of, manifest)}.safetensors"

    @cached_property
    def _made_of(self) -> tuple[str, dict[str, object]]:
        """The key space of the tower outputs, and what is done to them; hashes all weights, once for all splits."""
        key = CacheKey.of(self.backbone, self.data.budget, self.data.max_pixels)
        words = content_hash_of(self.backbone.model.get_input_embeddings().weight)
        return key.fingerprint, {"video": self.video, "max_text": self.max_text, "embeddings": words}

    def _made(self, split: str, bad: list[BadClip]) -> dict[str, Features]:
        found: dict[str, Features] = {}
        for batch in shown(self.data.eval_loader(split), f"Features of {split}"):
            bad += batch.bad
            found.update(self._features(batch))
        return found

    def media(self, clip: Clip) -> tuple[Path | None, Path | str | None]:
        """Below the data's root."""
        return self.data.sources(clip)

    @torch.no_grad()
    def _features(self, batch: ClipBatch) -> dict[str, Features]:
        if batch.data is None:
            return {}
        media = self.backbone.encode(batch.data.media.to(self.backbone.device))
        own = split_media(media, batch.data)
        self.data.keep(batch, own)
        return {clip.id: self._of_clip(clip, one) for clip, one in zip(batch.data.clips, own, strict=True)}

    def _of_clip(self, clip: Clip, media: MediaBatch) -> Features:
        found: dict[str, np.ndarray] = {}
        for video in media.videos:
            assert isinstance(video, EncodedVideo)
            steps = int(video.grid[0])
            values = video.features.float()
            found["video"] = array(values.reshape(steps, -1, self.width).mean(1) if self.video == "steps" else values)
        for audio in media.audios:
            found["audio"] = array(audio.features.float())  # type: ignore[union-attr]
        if clip.text is not None:
            ids = self.backbone.processor.tokenizer(clip.text, add_special_tokens=False).input_ids[: self.max_text]
            table = self.backbone.model.get_input_embeddings()
            if ids:
                found["text"] = array(table(torch.tensor(ids, device=self.backbone.device)).float())
        return found


def content_hash_of(weight: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def array(values: Tensor) -> np.ndarray:
    """As NumPy, in memory of its own."""
    return values.detach().cpu().numpy().copy()


def shown(batches: Iterable[ClipBatch], title: str) -> Iterable[ClipBatch]:
    """With a progress bar."""
    from rich.progress import track

    return track(batches, description=title, transient=True)
