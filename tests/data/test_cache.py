"""The feature cache: what names an entry, what an entry survives, and how the directory stays within its bound."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mosear.backbones.media import EncodedAudio, EncodedVideo, MediaBatch
from mosear.data.cache import CacheKey, FeatureCache
from mosear.data.cache import store as store_module
from mosear.data.cache.__main__ import main, summary
from mosear.data.cache.build import BuildReport
from mosear.data.dataset import ClipDataset, Collator, MediaReader
from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.media import MediaBudget
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import SampleBuilder

BUDGET = MediaBudget(num_frames=4)
NAME = "ab" + "0" * 62
OTHER = "cd" + "1" * 62


def encoded(tokens: int = 6, *, seed: int = 0, dtype: torch.dtype = torch.float32, deepstack: int = 2) -> MediaBatch:
    random = torch.Generator().manual_seed(seed)

    def features() -> torch.Tensor:
        return torch.randn(tokens, 8, generator=random).to(dtype)

    levels = tuple(features() for _ in range(deepstack))
    video = EncodedVideo(features(), torch.tensor([2, 4, 6]), 0.1 + 0.2, levels)
    return MediaBatch([video], [EncodedAudio(features(), 4 * tokens + 1)])


def tensors_of(media: MediaBatch) -> list[torch.Tensor]:
    video, audio = media.videos[0], media.audios[0]
    return [video.features, video.grid, *video.deepstack, audio.features]


def assert_same_bits(found: MediaBatch | None, expected: MediaBatch) -> None:
    assert found is not None
    assert found.videos[0].seconds_per_grid == expected.videos[0].seconds_per_grid
    assert found.audios[0].mel_frames == expected.audios[0].mel_frames
    for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


# Entries


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_comes_back_is_what_went_in(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = FeatureCache(tmp_path)
    assert cache.get(NAME) is None and NAME not in cache and cache.entry_size(NAME) == 0
    written = cache.put(NAME, encoded(dtype=dtype))
    assert NAME in cache and written == cache.entry_size(NAME) == cache.size() == cache.path(NAME).stat().st_size
    assert_same_bits(FeatureCache(tmp_path).get(NAME), encoded(dtype=dtype))


def test_one_modality_alone(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    both = encoded()
    cache.put(NAME, MediaBatch(both.videos, []))
    cache.put(OTHER, MediaBatch([], both.audios))
    assert cache.get(NAME).audios == [] and cache.get(OTHER).videos == []
    assert torch.equal(cache.get(OTHER).audios[0].features, both.audios[0].features)


def test_every_cut_and_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(NAME, encoded(2))
    path = cache.path(NAME)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 23), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert cache.get(NAME) is None and not path.exists()
    padding = survivors = 0
    for position, bit in itertools.product(range(0, len(whole)), (0, 5)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        found = cache.get(NAME)
        if found is None:
            assert not path.exists()
        else:  # a byte that means nothing, such as the spaces that pad the header
            survivors += 1
            assert_same_bits(found, encoded(2))
        padding += whole[position : position + 1] == b" "
    assert survivors < 40 + padding


def test_a_foreign_entry_is_rebuilt(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(OTHER, encoded(seed=1))
    cache.path(NAME).parent.mkdir()
    shutil.move(cache.path(OTHER), cache.path(NAME))
    assert cache.get(NAME) is None and NAME not in cache
    cache.put(NAME, encoded())
    assert_same_bits(cache.get(NAME), encoded())


def test_concurrent_writers_and_readers_see_whole_entries(tmp_path: Path) -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            cache = FeatureCache(tmp_path)
            for _ in range(15):
                cache.put(NAME, encoded(200))
                assert_same_bits(cache.get(NAME), encoded(200))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{NAME}.safetensors"]


def test_temporary_files_are_no_entries_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / NAME[:2]
    folder.mkdir()
    fresh, stale = folder / ".fresh.tmp", folder / ".stale.tmp"
    for path in (fresh, stale):
        path.write_bytes(b"x" * 100)
    os.utime(stale, (time.time() - 7200,) * 2)
    cache = FeatureCache(tmp_path)
    assert cache.size() == 0 and cache.get(NAME) is None
    monkeypatch.setattr(store_module, "save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        cache.put(NAME, encoded())
    assert NAME not in cache
    monkeypatch.undo()
    cache.put(NAME, encoded())
    assert sorted(path.name for path in folder.iterdir()) == [".fresh.tmp", f"{NAME}.safetensors"]


def names(count: int) -> list[str]:
    return [f"{index:02x}" + "e" * 62 for index in range(count)]


def test_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    size = FeatureCache(tmp_path / "measure").put(NAME, encoded())
    cache = FeatureCache(tmp_path / "cache", max_gb=10.5 * size / 2**30)
    for age, name in enumerate(names(10)):
        cache.put(name, encoded())
        os.utime(cache.path(name), (1000 + age,) * 2)
    assert cache.size() == 10 * size and cache.evicted == 0
    assert cache.get(names(10)[0]) is not None  # used: now the youngest
    cache.put(NAME, encoded())
    kept = {name for name in [*names(10), NAME] if name in cache}
    assert kept == {names(10)[0], NAME, *names(10)[3:]} and cache.evicted == 2
    assert cache.size() <= cache.max_bytes


def test_the_bound_holds_though_several_processes_write(tmp_path: Path) -> None:
    size = FeatureCache(tmp_path / "measure").put(NAME, encoded())
    caches = [FeatureCache(tmp_path / "cache", max_gb=20 * size / 2**30) for _ in range(4)]
    for writer, name in zip(itertools.cycle(caches), names(120), strict=False):
        writer.put(name, encoded())
        assert caches[0].size() <= 20 * size


@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_must_be_positive(tmp_path: Path, bound: float) -> None:
    with pytest.raises(ValueError, match=f"max_gb={bound} must be positive"):
        FeatureCache(tmp_path, max_gb=bound)


# Keys


def test_equal_settings_give_equal_keys(backbone) -> None:
    assert CacheKey.of(backbone, BUDGET, 3136) == CacheKey.of(backbone, MediaBudget(num_frames=4), 3136)


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": 5},
        {"num_frames": None, "fps": 2.0},
        {"max_pixels": 5000},
        {"max_seconds": 9.0},
        {"max_frames": 9},
    ],
    ids=str,
)
def test_each_budget_has_its_own_key(backbone, change) -> None:
    assert CacheKey.of(backbone, replace(BUDGET, **change), None) != CacheKey.of(backbone, BUDGET, None)


def _other_weight(backbone) -> None:
    with torch.no_grad():
        next(backbone.model.model.visual.parameters()).view(-1)[0] += 1e-3


def _other_audio_weight(backbone) -> None:
    with torch.no_grad():
        next(backbone.model.model.audio_tower.parameters()).view(-1)[0] += 1e-3


def _other_dtype(backbone) -> None:
    backbone.model.bfloat16()


def _other_pixels(backbone) -> None:
    backbone.processor.video_processor.image_mean = [0.5, 0.5, 0.5]


def _other_mel(backbone) -> None:
    backbone.processor.feature_extractor.n_fft = 512


def _other_attention(backbone) -> None:
    backbone.model.model.visual.config._attn_implementation = "eager"


CHANGES = [_other_weight, _other_audio_weight, _other_dtype, _other_pixels, _other_mel, _other_attention]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[1:])
def test_each_ingredient_of_the_backbone_changes_the_key(backbone, change) -> None:
    changed = replace(backbone, model=copy.deepcopy(backbone.model), processor=copy.deepcopy(backbone.processor))
    before = CacheKey.of(changed, BUDGET, None)
    assert before == CacheKey.of(backbone, BUDGET, None)
    change(changed)
    assert CacheKey.of(changed, BUDGET, None) != before


def test_max_pixels_library_versions_and_the_language_model(backbone, monkeypatch) -> None:
    before = CacheKey.of(backbone, BUDGET, None)
    assert CacheKey.of(backbone, BUDGET, 3136) != before
    changed = replace(backbone, model=copy.deepcopy(backbone.model))
    with torch.no_grad():
        changed.model.lm_head.weight.add_(1.0)
    assert CacheKey.of(changed, BUDGET, None) == before  # adapters and heads do not touch what the towers say
    monkeypatch.setattr(store_module, "_version", lambda name: "0")
    assert CacheKey.of(backbone, BUDGET, None) != before


def test_content_names_an_entry_and_the_file_name_does_not(tmp_path: Path) -> None:
    key = CacheKey("f")
    one, twin, other = tmp_path / "one.mp4", tmp_path / "twin.mp4", tmp_path / "other.mp4"
    one.write_bytes(b"content")
    twin.write_bytes(b"content")
    other.write_bytes(b"contenu")
    assert key.entry(one, "video") == key.entry(twin, "video")
    calls = [(one, "video"), (one, None), (None, one), (one, one), (one, other), (other, "video")]
    assert len({key.entry(*call) for call in calls}) == len(calls)
    assert CacheKey("g").entry(one, "video") != key.entry(one, "video")
    before = key.entry(one, None)
    one.write_bytes(b"changed")  # same name and size: the time tells
    os.utime(one, ns=(1, 1))
    assert key.entry(one, None) != before


# Through the reader


def reader_of(backbone, manifest, cache: FeatureCache | None = None) -> MediaReader:
    key = CacheKey.of(backbone, BUDGET, None) if cache else None
    return MediaReader(manifest, MediaProcessor(backbone.processor), BUDGET, cache, key)


def batch_of(backbone, manifest, cache: FeatureCache | None = None):
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt())
    dataset = ClipDataset(manifest, reader_of(backbone, manifest, cache), builder, with_answer=True)
    return Collator(builder.pad_id)([dataset[index] for index in range(len(dataset))])


def hidden_states(backbone, data) -> torch.Tensor:
    embeds, extra = backbone.embed(data.input_ids, data.media)
    return backbone.hidden_states(embeds, data.attention_mask, data.position_ids, **extra)


def test_results_with_and_without_the_cache_are_equal(any_backbone, corpus: Path, tmp_path: Path) -> None:
    backbone = any_backbone
    clips = load_manifest(corpus / "test.parquet")
    firsts = {clip.subset: index for index, clip in reversed(list(enumerate(clips)))}  # also the missing modalities
    manifest = clips.select(firsts.values())
    cache = FeatureCache(tmp_path)
    without = batch_of(backbone, manifest).data
    cold = batch_of(backbone, manifest, cache)
    reader = reader_of(backbone, manifest)
    for clip, name in zip(manifest, cold.cache_names, strict=True):
        assert name is not None
        cache.put(name, backbone.encode(reader(clip)[0]))
    warm = batch_of(backbone, manifest, cache)
    assert warm.cache_names == [None] * len(manifest)
    assert all(isinstance(item, EncodedVideo) for item in warm.data.media.videos)
    assert {len(item.deepstack) for item in warm.data.media.videos} == {0 if "2_5" in backbone.family.name else 2}
    for field in ("input_ids", "attention_mask", "position_ids", "roles", "transcript", "labels", "prompt_mask"):
        assert torch.equal(getattr(warm.data, field), getattr(without, field)), field
    assert torch.equal(hidden_states(backbone, warm.data), hidden_states(backbone, without))


def test_the_cache_keeps_full_precision_under_autocast(backbone, corpus: Path) -> None:
    manifest = load_manifest(corpus / "val.parquet")
    media = reader_of(backbone, manifest)(manifest[0])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = backbone.encode(media)
    assert torch.equal(under.videos[0].features, backbone.encode(media).videos[0].features)
    assert torch.equal(under.audios[0].features, backbone.encode(media).audios[0].features)


# The command


@pytest.fixture(scope="module")
def with_bad_clips(corpus: Path, tmp_path_factory) -> Path:
    """Validation clips: one cut short, one missing, one listed under two ids, and one of text alone."""
    root = tmp_path_factory.mktemp("bad")
    clips = list(load_manifest(corpus / "val.parquet"))[:4]
    rows = []
    for index, clip in enumerate(clips):
        (root / f"{index}.mp4").write_bytes((corpus / clip.video).read_bytes())
        rows.append(replace(clip, video=f"{index}.mp4"))
    (root / "1.mp4").write_bytes((root / "1.mp4").read_bytes()[:3000])
    (root / "2.mp4").unlink()
    rows.append(replace(rows[0], id="twin"))
    rows.append(replace(rows[0], id="words", video=None, audio=None, text="Well."))
    return write_manifest(rows, root / "clips.parquet")


def test_the_command_builds_resumes_and_reports(
    tiny_checkpoint: Path, corpus: Path, with_bad_clips: Path, tmp_path: Path, capsys
) -> None:
    from mosear.backbones import load_backbone
    from mosear.data.datamodule import ClipDataModule

    arguments = [
        "--backbone",
        str(tiny_checkpoint),
        "--dir",
        str(tmp_path),
        "--num-frames",
        "4",
        "--max-pixels",
        "3136",
    ]
    arguments += [
        "--decode-pixels",
        "4000",
        "--max-seconds",
        "1.5",
        "--workers",
        "0",
        "--manifest",
        str(with_bad_clips),
    ]
    report = main(arguments)
    clips = load_manifest(with_bad_clips)
    assert (report.new, report.present, report.text_only) == (2, 1, 1)
    assert [(bad.clip.id, bad.cause) for bad in report.bad] == [
        (clips[1].id, "truncated"),
        (clips[2].id, "missing_file"),
    ]
    cache = FeatureCache(tmp_path)
    assert report.total_bytes == cache.size() and len(report.entry_bytes) == 2
    output = capsys.readouterr().out
    assert "2 new, 1 present, 1 without media, 2 bad" in output and f"{cache.size():,} bytes in 2 entries" in output
    assert f"{clips[1].id}: " in output and "1.mp4: truncated" in output and "2.mp4: missing_file" in output

    torn = next(tmp_path.glob("??/*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:500])
    again = main([*arguments, str(corpus / "test.parquet")])
    assert again.new >= 1 + 8 and again.present >= 2 and len(again.bad) == 2
    assert {name: size for name, size in again.entry_bytes.items() if name in report.entry_bytes} == report.entry_bytes

    module = ClipDataModule(
        backbone=load_backbone(str(tiny_checkpoint), dtype="fp32"),
        prompt=Prompt(),
        budget=MediaBudget(num_frames=4, max_pixels=4000, max_seconds=1.5),
        max_pixels=3136,
        test=str(corpus / "test.parquet"),
        cache_dir=str(tmp_path),
        num_workers=0,
    )
    batches = list(module.test_dataloader())
    assert all(name is None for batch in batches for name in batch.cache_names)


def test_workers_build_the_same_entries(tiny_checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        arguments = [
            "--backbone",
            str(tiny_checkpoint),
            "--manifest",
            str(corpus / "val.parquet"),
            "--workers",
            workers,
        ]
        main([*arguments, "--dir", str(tmp_path / workers)])
    files = [{p.name: p.read_bytes() for p in (tmp_path / w).rglob("*.safetensors")} for w in ("0", "2")]
    assert files[0] and files[0] == files[1]


def test_a_full_cache_is_reported(tmp_path: Path) -> None:
    report = BuildReport(new=3, entry_bytes={"a": 2**30, "b": 2**30}, evicted=7)
    text = summary(report, FeatureCache(tmp_path))
    assert "7 entries were removed again" in text and "need 2 GB: raise --max-gb" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--max-gb", "0"], "max_gb=0.0 must be positive"),
        (["--num-frames", "0"], "num_frames=0 must be at least 1"),
        (["--manifest", "nowhere.parquet"], "no such file"),
        (["--backbone", "tiny-nothing"], "Unknown embedded backbone"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, corpus: Path, change, message) -> None:
    arguments = ["--backbone", "tiny-omni", "--dir", str(tmp_path), "--manifest", str(corpus / "val.parquet"), *change]
    with pytest.raises(SystemExit, match=message) as error:
        main(arguments)
    assert str(error.value).startswith("error: ")


@pytest.mark.parametrize("change", [["--workers", "-1"], ["--fps", "2", "--num-frames", "4"], ["--dtype", "int8"]])
def test_contradictory_options_are_refused(change) -> None:
    with pytest.raises(SystemExit):
        main(["--backbone", "tiny-omni", "--dir", "x", "--manifest", "y.parquet", *change])


def test_help_is_light() -> None:
    script = (
        "import sys, runpy; sys.argv = ['cache', '--help']\n"
        "try: runpy.run_module('mosear.data.cache', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import json; print(json.dumps(sorted({'torch', 'transformers', 'av', 'rich'} & sys.modules.keys())))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--max-gb" in done.stdout and json.loads(done.stdout.splitlines()[-1]) == []
