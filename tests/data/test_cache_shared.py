"""One feature cache for many: processes and hosts that write, read and evict at the same time; the ranks of a run."""

from __future__ import annotations

import itertools
import os
import resource
from pathlib import Path

import pytest
import torch

from mosear.data.cache import CacheKey, FeatureCache
from mosear.data.cache import store as store_module
from mosear.data.dataset import MediaReader
from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.media import MediaBudget
from mosear.data.media_processor import MediaProcessor
from tests.helpers.cache_processes import (
    hold_an_entry_whose_file_goes,
    in_processes,
    is_entry,
    media_of,
    name_of,
    write_and_read,
)
from tests.helpers.torchrun import facts, train

GIB = 2**30


def files_in(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.multinode
def test_processes_that_write_the_same_entries_lose_and_tear_none(tmp_path: Path) -> None:
    answers = in_processes(3, write_and_read, tmp_path, GIB, 12, 80)
    assert sum(found["torn"] + found["lost"] + found["evicted"] for found in answers) == 0
    assert all(found["read"] > 40 for found in answers)
    assert sorted(path.name for path in files_in(tmp_path)) == sorted(f"{name_of(i)}.safetensors" for i in range(12))
    cache = FeatureCache(tmp_path)
    assert all(is_entry(cache.get(name_of(index)), index) for index in range(12))
    sizes = {FeatureCache(tmp_path / "again").put(name_of(index), media_of(index)) for index in range(12)}
    assert cache.size() == sum(path.stat().st_size for path in files_in(tmp_path) if "again" not in path.parts)
    assert max(found["largest"] for found in answers) <= sum(sizes), "an entry that was written twice counts once"


@pytest.mark.multinode
def test_processes_that_evict_while_others_read_keep_the_bound(tmp_path: Path) -> None:
    size = FeatureCache(tmp_path / "measure").put(name_of(60), media_of(60))
    bound = 20 * size
    answers = in_processes(3, write_and_read, tmp_path / "cache", bound, 60, 80)
    assert sum(found["torn"] for found in answers) == 0
    assert all(found["evicted"] and found["read"] and found["absent"] for found in answers)
    assert max(found["largest"] for found in answers) <= bound + 3 * size, "one write of each may be under way"
    assert FeatureCache(tmp_path / "cache").size() <= bound
    assert {path.suffix for path in files_in(tmp_path / "cache")} == {".safetensors"}


def test_many_writers_keep_the_bound_together(tmp_path: Path) -> None:
    """Each writes little between two looks at the directory, all together much."""
    size = FeatureCache(tmp_path / "measure").put(name_of(0), media_of(0, 1))
    bound = 160 * size
    caches = [FeatureCache(tmp_path / "cache", max_gb=(bound + 0.5) / GIB) for _ in range(40)]
    largest = 0
    for number, writer in zip(range(600), itertools.cycle(caches), strict=False):
        writer.put(f"ab{number:062x}", media_of(0, 1))
        largest = max(largest, caches[0].size()) if number % 10 == 0 else largest
    assert 0.8 * bound < largest <= 1.05 * bound
    assert sum(cache.evicted for cache in caches) >= 600 - 160


def test_few_looks_at_the_directory_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    size = FeatureCache.size
    monkeypatch.setattr(FeatureCache, "size", lambda cache: looks.append(1) or size(cache))
    cache = FeatureCache(tmp_path, max_gb=2**20 / GIB)
    for index in range(200):
        cache.put(name_of(index), media_of(0, 1))
    assert len(looks) <= 5 and cache.evicted == 0


def test_an_entry_written_again_counts_once(tmp_path: Path) -> None:
    size = FeatureCache(tmp_path / "measure").put(name_of(0), media_of(0))
    cache = FeatureCache(tmp_path / "cache", max_gb=10.5 * size / GIB)
    for index in range(10):
        cache.put(name_of(index), media_of(0))
    for _ in range(50):
        cache.put(name_of(0), media_of(0))
    assert cache.evicted == 0 and cache.size() == 10 * size


def test_two_that_evict_at_once_remove_the_same_entries_and_count_them_once(tmp_path: Path) -> None:
    size = FeatureCache(tmp_path / "measure").put(name_of(0), media_of(0))
    one, other = (FeatureCache(tmp_path / "cache", max_gb=10.5 * size / GIB) for _ in range(2))
    for index in range(11):
        FeatureCache(tmp_path / "cache").put(name_of(index), media_of(0))
        os.utime(one.path(name_of(index)), (1000 + index,) * 2)
    entries = one._entries()
    other._entries = lambda: entries  # it has listed the directory before the first one evicts
    one._evict()
    other._evict()
    assert (one.evicted, other.evicted) == (2, 0)
    assert [index for index in range(11) if name_of(index) in one] == list(range(2, 11))


def test_a_read_entry_does_not_need_its_file(tmp_path: Path) -> None:
    """Another host may evict it: pages of a mapped file would be gone, and the process with them."""
    assert in_processes(1, hold_an_entry_whose_file_goes, tmp_path) == [True]


def test_an_entry_that_cannot_be_read_now_is_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(name_of(1), media_of(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # too many open files
    try:
        assert cache.get(name_of(1)) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert is_entry(cache.get(name_of(1)), 1)


def test_who_finds_damage_keeps_what_another_has_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(name_of(1), media_of(1))
    path, parse = cache.path(name_of(1)), store_module._parse
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    def slowly(*arguments):
        FeatureCache(tmp_path).put(name_of(1), media_of(1))
        return parse(*arguments)

    monkeypatch.setattr(store_module, "_parse", slowly)
    assert cache.get(name_of(1)) is None
    monkeypatch.undo()
    assert is_entry(cache.get(name_of(1)), 1)


def test_a_damaged_entry_is_decoded_and_rebuilt(backbone, corpus: Path, tmp_path: Path) -> None:
    manifest, budget = load_manifest(corpus / "val.parquet"), MediaBudget(num_frames=4)
    cache = FeatureCache(tmp_path)
    key = CacheKey.of(backbone, budget, None)
    reader = MediaReader(manifest, MediaProcessor(backbone.processor), budget, cache, key)
    for clip in manifest:
        media, name = reader(clip)
        cache.put(name, backbone.encode(media))
    damaged = reader.entry(manifest[0])
    before = cache.get(damaged)
    path = cache.path(damaged)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    readings = [reader(clip) for clip in manifest]
    assert [name for _, name in readings] == [damaged] + [None] * (len(manifest) - 1)
    cache.put(damaged, backbone.encode(readings[0][0]))
    after = cache.get(damaged)
    for one, other in zip(after.videos + after.audios, before.videos + before.audios, strict=True):
        assert torch.equal(one.features, other.features)
    assert [name for _, name in map(reader, manifest)] == [None] * len(manifest)


@pytest.mark.slow
@pytest.mark.multinode
@pytest.mark.filterwarnings("ignore")
def test_ranks_encode_their_own_share_once_and_read_the_others(corpus: Path, tmp_path: Path) -> None:
    clips = [
        clip for flavour in ("natural", "voice_dominant") for clip in load_manifest(corpus / f"train_{flavour}.parquet")
    ]
    manifest = write_manifest(clips[:8], tmp_path / "train.parquet")
    recipe = [
        "+experiment=mosear_plain", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "trainer.precision=32-true", "trainer.max_epochs=3", "trainer.limit_val_batches=0", "zero_shot=false",
        f"data.train={manifest}", f"data.root={corpus}", f"data.val={corpus}/val.parquet", "data.prepare=null",
        "data.batch_size=2", "data.num_workers=1", "data.budget.num_frames=4", f"data.cache_dir={tmp_path / 'cache'}",
        "+trainer.enable_progress_bar=false",
    ]  # fmt: skip
    out = train({"shared": recipe}, tmp_path / "out", processes=2)
    seen = [facts(out / "shared", rank)["clips"] for rank in (0, 1)]
    written = [{name for epoch, _, name in own if epoch == 0} for own in seen]
    assert None not in written[0] | written[1], "nobody finds anything in the first epoch"
    assert not written[0] & written[1] and len(written[0]) == len(written[1]) == 4
    assert {path.stem for path in files_in(tmp_path / "cache")} == written[0] | written[1]
    assert {name for own in seen for epoch, _, name in own if epoch > 0} == {None}, "all of it is there afterwards"
    shares = [[{clip for e, clip, _ in own if e == epoch} for own in seen] for epoch in range(3)]
    assert all(len(one | other) == 8 for one, other in shares)
    assert shares[1][0] & shares[0][1] or shares[2][0] & shares[0][1], "epochs are shared out anew"
