"""The cache's store: one safetensors file per clip, named by everything its content depends on.

key = sha256(media bytes, tower weights, processor config, budgets, dtype, library versions)

Entries are written to a temporary file and renamed, carry a checksum and their own key, and are dropped and rebuilt
when torn, damaged or foreign. The least recently used ones go when the cache outgrows its bound.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from mosear.backbones.media import EncodedAudio, EncodedVideo, MediaBatch
from mosear.files import content_hash, os_errors, written_atomically

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.media import MediaBudget

FORMAT = 2
LEFTOVER_SECONDS = 3600
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
"""Of an entry's tensors, as safetensors names them."""
LIBRARIES = ("torch", "transformers", "torchvision", "av")


@dataclass(frozen=True)
class CacheKey:
    """Everything an entry depends on besides the media themselves."""

    fingerprint: str

    @classmethod
    def of(cls, backbone: OmniBackbone, budget: MediaBudget, max_pixels: int | None) -> CacheKey:
        """The key space of a backbone (its towers' weights, its processor, its dtype) under given budgets."""
        processor = backbone.processor
        parts = {
            "format": FORMAT,
            "towers": _tower_hash(backbone),
            "video_processor": _config(processor.video_processor),
            "feature_extractor": _config(processor.feature_extractor),
            "budget": asdict(budget),
            "max_pixels": max_pixels,
            "dtype": str(backbone.dtype),
            "attention": [tower.config._attn_implementation for tower in _towers(backbone).values()],
            "device": backbone.device.type,
            "versions": {name: _version(name) for name in LIBRARIES},
        }
        return cls(hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest())

    def entry(self, video: Path | None, audio: Path | str | None) -> str:
        """Name of one clip's entry. Content decides, not the file's name: a moved data set keeps its cache."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for source in (video, audio):
            digest.update(
                b"|" + (source if isinstance(source, str) else content_hash(source) if source else "-").encode()
            )
        return digest.hexdigest()


class FeatureCache:
    """Finds and keeps encoder outputs.

    Args:
        root: directory of the entries. Processes and hosts may share it: a rename is all that publishes an entry.
        max_gb: bound of the directory's size; the least recently used entries go first.
    """

    def __init__(self, root: str | Path, *, max_gb: float = 50.0) -> None:
        if max_gb <= 0:
            raise ValueError(f"max_gb={max_gb} must be positive. Turn the cache off with data.cache_dir=null instead.")
        self.root = Path(root)
        self.max_bytes = int(max_gb * 2**30)
        self.evicted = 0
        self._size: int | None = None  # at the last look; this process has written `_unseen` bytes since
        self._unseen = 0
        self._writers = 1.0  # all processes together write so many times what this one does
        self._look_after = 0.0

    def path(self, name: str) -> Path:
        """Where an entry lies."""
        return self.root / name[:2] / f"{name}.safetensors"

    def get(self, name: str) -> MediaBatch | None:
        """The entry, or ``None`` if it is absent or unusable (then it is removed)."""
        path = self.path(name)
        try:
            # Read, not mapped: when another host evicts a mapped file, a network file system answers with SIGBUS.
            with open(path, "rb") as file:
                found = os.fstat(file.fileno())
                content = torch.empty(found.st_size, dtype=torch.uint8)
                whole = file.readinto(content.numpy().data) == found.st_size
        except OSError:  # absent, evicted meanwhile, or not readable now, which says nothing against the entry
            return None
        media = _parse(content, name) if whole else None
        if media is None:
            self._drop(path, found)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used entries are evicted first
        return media

    def put(self, name: str, media: MediaBatch) -> int:
        """Write an entry atomically, then make room if the bound is passed. Returns the entry's size in bytes."""
        tensors, header = _pack(media)
        header["name"] = name
        header["checksum"] = _checksum(tensors, header)
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        replaced = self.entry_size(name)  # two processes may have met the same clip
        with os_errors(path), written_atomically(path) as temporary:
            save_file(tensors, temporary, metadata={"mosear": json.dumps(header)})
            written = temporary.stat().st_size
        self._make_room(written - replaced)
        return written

    def __contains__(self, name: str) -> bool:
        return self.path(name).is_file()

    def entry_size(self, name: str) -> int:
        """Bytes of an entry; 0 if there is none."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return 0

    def size(self) -> int:
        """Bytes in use."""
        return sum(stat.st_size for _, stat in self._entries())

    def _entries(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.root.glob("??/*.safetensors"):
            with contextlib.suppress(OSError):  # another process may evict it meanwhile
                found.append((path, path.stat()))
        return found

    def _make_room(self, written: int) -> None:
        """Keep the bound, though other processes write too: look again before all have filled a quarter of the rest.

        What the directory grew by since the last look, beside what this process wrote, says how much the others write.
        """
        self._unseen += written
        if self._size is None or self._unseen > self._look_after:
            self._look()
        elif self._size + self._unseen * self._writers > self.max_bytes:
            self._evict()

    def _look(self) -> None:
        self._remove_leftovers()
        size = self.size()
        if self._size is None:  # nothing is known of others: look again soon
            self._look_after = self.max_bytes / 4096
        else:
            grown = size - self._size
            if grown >= self._unseen > 0:  # else someone evicted, which tells nothing
                self._writers = grown / self._unseen
            self._look_after = max((self.max_bytes - size) / 4, self.max_bytes / 64) / self._writers
        self._size, self._unseen = size, 0
        if size > self.max_bytes:
            self._evict()

    def _remove_leftovers(self) -> None:
        """Temporary files of processes that were killed."""
        for path in self.root.glob("??/.*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    path.unlink()

    def _evict(self) -> None:
        """Remove the oldest entries until a tenth of the bound is free, so that not every write has to."""
        entries = sorted(self._entries(), key=lambda entry: entry[1].st_mtime)
        size = sum(stat.st_size for _, stat in entries)
        if size > self.max_bytes:  # else another process was faster
            for path, stat in entries:
                if size <= 0.9 * self.max_bytes:
                    break
                with contextlib.suppress(FileNotFoundError):  # two may evict at the same time: the same entries
                    path.unlink()
                    self.evicted += 1
                size -= stat.st_size
        self._size, self._unseen = size, 0

    def _drop(self, path: Path, found: os.stat_result) -> None:
        """Remove a damaged entry, unless another process has rebuilt it meanwhile."""
        with contextlib.suppress(OSError):  # a directory that may only be read
            now = path.stat()
            if (now.st_ino, now.st_mtime_ns) == (found.st_ino, found.st_mtime_ns):
                path.unlink()


def _parse(content: torch.Tensor, name: str) -> MediaBatch | None:
    """An entry's media as views of ``content``, or ``None`` if they are not whole or not those of ``name``."""
    try:
        start = 8 + int.from_bytes(content[:8].numpy().tobytes(), "little")
        places = json.loads(content[8:start].numpy().tobytes())
        header = json.loads(places.pop("__metadata__")["mosear"])
        tensors = {key: _view(content[start:], place) for key, place in places.items()}
        if header.pop("checksum") != _checksum(tensors, header) or header["name"] != name:
            return None
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError):
        return None  # what damage can make of JSON, offsets and shapes
    return _unpack(tensors, header)


def _view(data: torch.Tensor, place: dict[str, Any]) -> torch.Tensor:
    first, last = place["data_offsets"]
    return data[first:last].view(DTYPES[place["dtype"]]).view(place["shape"])


def _pack(media: MediaBatch) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors: dict[str, torch.Tensor] = {}
    header: dict[str, Any] = {"videos": [], "audios": []}
    for index, video in enumerate(media.videos):
        assert isinstance(video, EncodedVideo)
        tensors |= {f"v{index}.features": video.features, f"v{index}.grid": video.grid}
        tensors |= {f"v{index}.deepstack{level}": x for level, x in enumerate(video.deepstack)}
        header["videos"].append({"seconds_per_grid": video.seconds_per_grid, "deepstack": len(video.deepstack)})
    for index, audio in enumerate(media.audios):
        assert isinstance(audio, EncodedAudio)
        tensors[f"a{index}.features"] = audio.features
        header["audios"].append({"mel_frames": audio.mel_frames})
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, header


def _unpack(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> MediaBatch:
    videos = [
        EncodedVideo(
            tensors[f"v{i}.features"],
            tensors[f"v{i}.grid"],
            info["seconds_per_grid"],
            tuple(tensors[f"v{i}.deepstack{level}"] for level in range(info["deepstack"])),
        )
        for i, info in enumerate(header["videos"])
    ]
    audios = [EncodedAudio(tensors[f"a{i}.features"], info["mel_frames"]) for i, info in enumerate(header["audios"])]
    return MediaBatch(list(videos), list(audios))


def _checksum(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> int:
    checksum = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key]
        checksum = zlib.crc32(f"{key}{tuple(value.shape)}{value.dtype}".encode(), checksum)
        checksum = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def _towers(backbone: OmniBackbone) -> dict[str, Any]:
    return {path: backbone.model.get_submodule(path) for path in backbone.family.tower_paths}


def _tower_hash(backbone: OmniBackbone) -> str:
    digest = hashlib.sha256()
    for path, tower in _towers(backbone).items():
        for name, value in sorted(tower.state_dict().items()):
            digest.update(f"{path}.{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _config(component: Any) -> dict[str, Any]:
    return {k: v for k, v in component.to_dict().items() if k not in ("_processor_class", "processor_class")}


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)
