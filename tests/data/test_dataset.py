"""From manifest rows to batches: bad media have a clear outcome, and nothing is lost on the way."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from mosear.backbones.media import AudioInput, MediaBatch
from mosear.data.cache import CacheKey, FeatureCache
from mosear.data.clip import Clip
from mosear.data.container import MediaError
from mosear.data.dataset import ClipDataset, Collator, Item, MediaReader
from mosear.data.manifest import Manifest, load_manifest, write_manifest
from mosear.data.media import MediaBudget
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import SampleBuilder

BUDGET = MediaBudget(num_frames=4)


def dataset_of(
    backbone, manifest: Manifest, *, with_answer: bool = True, on_bad_media: str = "quarantine"
) -> ClipDataset:
    reader = MediaReader(manifest, MediaProcessor(backbone.processor), BUDGET)
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt())
    return ClipDataset(manifest, reader, builder, with_answer=with_answer, on_bad_media=on_bad_media)


def collate(dataset: ClipDataset, indices):
    return Collator(dataset.builder.pad_id)([dataset[index] for index in indices])


BREAK: dict[str, Callable[[Path], object]] = {
    "missing_file": lambda path: path.unlink(),
    "empty_file": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    "not_media": lambda path: path.write_text("not a video"),
    "git_lfs_pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
}


@pytest.fixture(scope="module")
def mixed(corpus: Path, tmp_path_factory) -> Manifest:
    """Good and bad clips in turns: g b g b b ... (the bad ones are named after their cause)."""
    root = tmp_path_factory.mktemp("mixed")
    good = list(load_manifest(corpus / "train_natural.parquet"))[:3]
    rows: list[Clip] = []

    def add(name: str, clip: Clip) -> Path:
        path = root / f"{name}.mp4"
        path.write_bytes((corpus / clip.video).read_bytes())
        rows.append(replace(clip, id=name, video=path.name))
        return path

    causes = iter(BREAK.items())
    for index, count in enumerate((1, 2, 2)):
        add(f"good{index}", good[index])
        for _ in range(count):
            cause, spoil = next(causes)
            spoil(add(cause, good[0]))
    return load_manifest(write_manifest(rows, root / "mixed.parquet"))


def test_evaluation_reports_bad_clips_in_their_place(backbone, mixed: Manifest) -> None:
    dataset = dataset_of(backbone, mixed, with_answer=False)
    batch = collate(dataset, range(len(mixed)))
    assert [clip.id for clip in batch.data.clips] == ["good0", "good1", "good2"]
    assert [(bad.clip.id, bad.cause) for bad in batch.bad] == [(cause, cause) for cause in BREAK]
    assert all(f"{bad.clip.id}.mp4" in bad.message for bad in batch.bad)
    assert len(batch) == len(mixed) == 8
    nothing = collate(dataset, [1])
    assert nothing.data is None and len(nothing) == 1 and nothing.cache_names == []
    assert nothing.to("cpu").data is None and nothing.pin_memory().bad == nothing.bad


def test_training_takes_the_next_good_clip_and_keeps_the_batch_size(backbone, mixed: Manifest) -> None:
    ids = [clip.id for clip in mixed]
    dataset = dataset_of(backbone, mixed)
    for index in range(len(mixed)):
        item = dataset[index]
        expected, bad = index, []
        while not ids[expected % 8].startswith("good"):  # the rule, literally
            bad.append(ids[expected % 8])
            expected += 1
        assert item.sample.clip.id == ids[expected % 8] and [entry.clip.id for entry in item.bad] == bad
    batch = collate(dataset, [1, 6, 7, 0])
    assert len(batch.data) == 4 and [clip.id for clip in batch.data.clips] == ["good1", "good0", "good0", "good0"]
    assert [bad.clip.id for bad in batch.bad] == ["missing_file", "not_media", "git_lfs_pointer", "git_lfs_pointer"]


def test_bad_clips_alone_are_an_error_and_no_endless_search(backbone, mixed: Manifest) -> None:
    bad = mixed.filter(lambda clip: not clip.id.startswith("good"))
    with pytest.raises(
        ValueError, match=r"None of the 5 training clips has usable media; the first: .*missing_file\.mp4"
    ):
        dataset_of(backbone, bad)[2 - 2]


@pytest.mark.parametrize("cause", BREAK)
@pytest.mark.parametrize("with_answer", [True, False])
def test_error_mode_names_clip_file_cause_and_the_way_out(
    backbone, mixed: Manifest, cause: str, with_answer: bool
) -> None:
    dataset = dataset_of(backbone, mixed, with_answer=with_answer, on_bad_media="error")
    index = [clip.id for clip in mixed].index(cause)
    with pytest.raises(ValueError, match=f"^Clip '{cause}': .*{cause}.mp4: {cause}: .*on_bad_media=quarantine"):
        dataset[index]
    assert dataset[0].bad == ()


def test_workers_report_bad_clips(backbone, mixed: Manifest) -> None:
    dataset = dataset_of(backbone, mixed)
    here = [collate(dataset, chunk) for chunk in (range(4), range(4, 8))]
    there = list(DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=Collator(dataset.builder.pad_id)))
    for one, other in zip(here, there, strict=True):
        assert one.bad == other.bad and one.data.clips == other.data.clips
        assert torch.equal(one.data.input_ids, other.data.input_ids)


def test_an_error_keeps_its_text_on_the_way_out_of_a_worker(backbone, mixed: Manifest) -> None:
    """With what a DataLoader wraps it in; a failing loader itself takes torch five seconds per worker to take down."""
    dataset = dataset_of(backbone, mixed, on_bad_media="error")
    try:
        dataset[1]
    except ValueError:
        wrapped = pickle.loads(pickle.dumps(ExceptionWrapper(where="in DataLoader worker process 0")))
    with pytest.raises(
        ValueError, match=r"(?s)worker process 0.*Clip 'missing_file': .*missing_file\.mp4: missing_file"
    ):
        wrapped.reraise()


def test_media_that_decode_but_give_no_token_are_bad_too(backbone, media: Callable[..., Path]) -> None:
    click = media("click.wav", video=None, audio="pcm_s16le", audio_seconds=0.015)
    flat = media("flat.mkv", size=(900, 4), frames=3, audio=None)
    rows = [Clip(id="click", audio=click.name, text="Oh.", label="sad"), Clip(id="flat", video=flat.name, label="sad")]
    manifest = load_manifest(write_manifest(rows, click.parent / "odd.parquet"))
    batch = collate(dataset_of(backbone, manifest, with_answer=False), range(2))
    assert batch.data is None and [bad.cause for bad in batch.bad] == ["unsuitable", "unsuitable"]
    assert "0.015 s" in batch.bad[0].message and "aspect ratio" in batch.bad[1].message
    with pytest.raises(ValueError, match=r"^Clip 'click': .*click\.wav: unsuitable"):
        dataset_of(backbone, manifest, on_bad_media="error")[0]


def test_missing_modalities_are_honoured(backbone, corpus: Path) -> None:
    """A clip without a picture still has the sound of its file; the hidden modality reaches nobody."""
    has = {}
    manifest = load_manifest(corpus / "test.parquet")
    reader = MediaReader(manifest, MediaProcessor(backbone.processor), BUDGET)
    for clip in manifest:
        media, name = reader(clip)
        assert name is None and len(media.videos) == ("video" not in clip.missing)
        assert len(media.audios) == ("audio" not in clip.missing)
        has.setdefault(clip.missing, clip)
    assert set(has) == {(), ("video",), ("audio",), ("text",)}


def test_the_sound_track_of_a_video_file_alone(backbone, media: Callable[..., Path]) -> None:
    path = media("spoken.mp4", frames=30)
    rows = [
        Clip(id="both", video=path.name, audio="video"),
        Clip(id="heard", audio=path.name, missing=("video",)),
        Clip(id="seen", video=path.name, missing=("audio",)),
        Clip(id="words", text="Oh.", missing=("video", "audio")),
    ]
    manifest = load_manifest(write_manifest(rows, path.parent / "heard.parquet"))
    reader = MediaReader(manifest, MediaProcessor(backbone.processor), BUDGET)
    both, heard, seen, words = (reader(clip)[0] for clip in manifest)
    assert not heard.videos and isinstance(heard.audios[0], AudioInput)
    assert torch.equal(heard.audios[0].mel, both.audios[0].mel)
    assert not seen.audios and torch.equal(seen.videos[0].pixels, both.videos[0].pixels)
    assert not words.videos and not words.audios


def test_a_wrong_sampling_rate_is_refused_at_once(backbone, mixed: Manifest) -> None:
    with pytest.raises(ValueError, match=r"budget.audio_rate=8000 must be 16000"):
        MediaReader(mixed, MediaProcessor(backbone.processor), MediaBudget(audio_rate=8000))


def test_dataset_and_collator_can_be_sent_to_a_spawned_worker(backbone, mixed: Manifest) -> None:
    dataset = dataset_of(backbone, mixed)
    assert dataset[0].sample is not None  # the lazily built rope indexer must not stand in the way
    twin = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(twin[0].sample.input_ids, dataset[0].sample.input_ids)
    assert pickle.loads(pickle.dumps(Collator(7))).pad_id == 7
    error = pickle.loads(pickle.dumps(MediaError("a.mp4", "unsuitable", "why")))
    assert str(error) == "a.mp4: unsuitable: why. Drop the clip or replace the file."


def test_cache_names_follow_the_good_clips(backbone, mixed: Manifest) -> None:
    good = dataset_of(backbone, mixed)[0]
    items = [replace(good, cache_name="a"), Item(None, good.bad), replace(good, cache_name=None)]
    assert Collator(0)(items).cache_names == ["a", None]


def loop(path: Path) -> Path:
    """A name that the system refuses to open, whoever asks: permissions do not stop an administrator."""
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)
    return path


@pytest.mark.parametrize("with_cache", [False, True])
def test_a_file_that_the_system_refuses_to_read_is_bad(
    backbone, corpus: Path, tmp_path: Path, with_cache: bool
) -> None:
    good = next(iter(load_manifest(corpus / "train_natural.parquet")))
    (tmp_path / "good.mp4").write_bytes((corpus / good.video).read_bytes())
    loop(tmp_path / "loop.mp4")
    rows = [replace(good, id=name, video=f"{name}.mp4") for name in ("loop", "good")]
    manifest = load_manifest(write_manifest(rows, tmp_path / "m.parquet"))
    dataset = dataset_of(backbone, manifest, with_answer=False)
    if with_cache:
        key = CacheKey.of(backbone, BUDGET, None)
        cache = FeatureCache(tmp_path / "cache")
        dataset.reader = MediaReader(manifest, MediaProcessor(backbone.processor), BUDGET, cache, key)
    batch = collate(dataset, range(2))
    assert [clip.id for clip in batch.data.clips] == ["good"]
    assert [bad.cause for bad in batch.bad] == ["unreadable"]
    assert "loop.mp4: unreadable: Too many levels of symbolic links. Check the file" in batch.bad[0].message


@pytest.mark.parametrize("with_answer", [True, False])
def test_a_transcript_over_max_tokens_is_bad(backbone, corpus: Path, tmp_path: Path, with_answer: bool) -> None:
    good = next(iter(load_manifest(corpus / "train_natural.parquet")))
    rows = [replace(good, id="long", text="word " * 3000), good]
    manifest = load_manifest(write_manifest(rows, tmp_path / "m.parquet"), root=corpus)
    dataset = dataset_of(backbone, manifest, with_answer=with_answer)
    dataset.builder.max_tokens = 1000
    batch = collate(dataset, range(2))
    assert {clip.id for clip in batch.data.clips} == {good.id}
    assert [(bad.clip.id, bad.cause) for bad in batch.bad] == [("long", "too_long")]
    assert re.search(r"needs \d+ tokens, more than max_tokens=1000", batch.bad[0].message)
    dataset.on_bad_media = "error"
    with pytest.raises(ValueError, match=r"^Clip 'long' needs .* raise max_tokens\. To go on without bad clips"):
        dataset[0]


@pytest.mark.parametrize("with_cache", [False, True])
def test_batches_name_the_clips_that_were_cut(backbone, corpus: Path, tmp_path: Path, with_cache: bool) -> None:
    good = next(iter(load_manifest(corpus / "train_natural.parquet")))
    manifest = load_manifest(
        write_manifest([good, Clip(id="words", text="Oh.", label="sad")], tmp_path / "m.parquet"), root=corpus
    )
    for budget, cut in ((BUDGET, []), (replace(BUDGET, max_seconds=0.5), [(good, 0.5)])):
        dataset = dataset_of(backbone, manifest)
        dataset.reader.budget = budget
        if with_cache:
            dataset.reader.cache = FeatureCache(tmp_path / "cache")
            dataset.reader.key = CacheKey.of(backbone, budget, None)
            item = dataset[0]
            dataset.reader.cache.put(item.cache_name, backbone.encode(item.sample.media))
            assert dataset[0].cache_name is None, "from the cache"
        assert collate(dataset, range(2)).cut == cut


def test_a_blank_transcript_is_absent_everywhere(backbone) -> None:
    builder = SampleBuilder(backbone.processor, backbone.family, Prompt())
    blank, absent = (Clip(id="c", audio="c.wav", text=text) for text in (" \n\t", None))
    assert blank == absent and blank.text is None and blank.to_row()["text"] is None
    sound = MediaBatch([], [AudioInput(torch.zeros(128, 200))])
    one, other = (builder.build(clip, sound) for clip in (blank, absent))
    assert torch.equal(one.input_ids, other.input_ids) and not one.transcript.any()
