"""Splits that fit stay in memory: the same batches, no workers and no files from the second pass on."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from mosear.data.cache import FeatureCache
from mosear.data.clip import Clip
from mosear.data.datamodule import ClipDataModule
from mosear.data.dataset import ClipBatch
from mosear.data.media import MediaBudget, MediaError
from mosear.data.prompt import Prompt
from mosear.data.resident import ResidentMedia
from mosear.methods.omni_system import OmniSystem


@pytest.fixture
def system(backbone, corpus, tmp_path):
    """``system(**options)``: a bare backbone on the small corpus."""

    def make(**options) -> OmniSystem:
        module = ClipDataModule(
            **{
                "backbone": backbone,
                "prompt": Prompt(),
                "budget": MediaBudget(num_frames=4),
                "train": str(corpus / "train_natural.parquet"),
                "test": str(corpus / "test.parquet"),
                "batch_size": 4,
                "eval_batch_size": 3,
                "num_workers": 0,
                "bucket": 1,
                **options,
            }
        )
        return OmniSystem(backbone, backbone.model, module)

    return make


def encoded(system: OmniSystem, loader) -> list[ClipBatch]:
    return [replace(batch, data=system.encoded(batch)) for batch in loader]


def assert_same(first: list[ClipBatch], second: list[ClipBatch]) -> None:
    assert len(first) == len(second) > 1
    for one, other in zip(first, second, strict=True):
        assert one.data.clips == other.data.clips and one.cut == other.cut
        for name, value in vars(one.data).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, getattr(other.data, name)), name
        for kind in ("videos", "audios"):
            for a, b in zip(getattr(one.data.media, kind), getattr(other.data.media, kind), strict=True):
                assert torch.equal(a.features, b.features)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_second_pass_is_the_same_and_reads_no_file(system, tmp_path, cached, workers, monkeypatch) -> None:
    own = system(num_workers=workers, cache_dir=str(tmp_path / "cache") if cached else None)
    plain = system(resident_mb=0)
    first = encoded(own, own.data.test_dataloader())
    assert_same(first, encoded(plain, plain.data.test_dataloader()))
    monkeypatch.setattr(FeatureCache, "get", lambda *_: pytest.fail("read a file"))
    monkeypatch.setattr("mosear.data.decode_process.decode", lambda *_: pytest.fail("decoded a file"))
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("started a process"))
    assert_same(first, encoded(own, own.data.test_dataloader()))


def test_training_and_its_scales_share_what_was_read(system) -> None:
    own = system()
    encoded(own, own.data.eval_loader("train"))
    assert own.data.resident["train"].holds(clip.id for clip in own.data.manifest("train"))
    loader = own.data.train_dataloader()
    plain = system(resident_mb=0)
    assert_same(encoded(own, loader), encoded(plain, plain.data.train_dataloader()))


def test_a_split_that_does_not_fit_is_dropped_as_a_whole(system) -> None:
    own = system(resident_mb=0.001)
    encoded(own, own.data.test_dataloader())
    resident = own.data.resident["test"]
    assert not resident.fits and not any(resident.holds([clip.id]) for clip in own.data.manifest("test"))


def test_it_gives_up_as_soon_as_it_can_tell(system) -> None:
    own = system()
    (batch, *_) = encoded(own, own.data.test_dataloader())
    found = own.data.resident["test"].get(batch.data.clips[0].id)
    assert found is not None
    one = ResidentMedia(2**40, 1)
    one.keep([Clip(id="0", video="v.mp4")], [found[0]], ())
    many = ResidentMedia(64 * one.bytes, 1000)  # of which 64 would fit
    for index in range(40):
        many.keep([Clip(id=str(index), video="v.mp4")], [found[0]], ())
    assert not many.fits and many.bytes <= 33 * one.bytes


def test_bad_clips_stay_bad(system, corpus, tmp_path) -> None:
    from mosear.data.manifest import load_manifest, write_manifest

    clips = list(load_manifest(corpus / "test.parquet"))
    broken = [replace(clips[0], video="missing.mp4"), *clips[1:]]
    write_manifest(broken, tmp_path / "broken.parquet")
    own = system(test=str(tmp_path / "broken.parquet"), root=str(corpus), on_bad_media="quarantine")
    for _ in range(2):
        batches = encoded(own, own.data.test_dataloader())
        assert [bad.clip.id for batch in batches for bad in batch.bad] == [clips[0].id]
    with pytest.raises(MediaError):
        own.data.dataset("test", with_answer=False).reader.read(broken[0])
