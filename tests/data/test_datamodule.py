"""The data module: what it refuses, the order it keeps, and that workers change nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from mosear.data.cache import CacheKey
from mosear.data.datamodule import ClipDataModule
from mosear.data.dataset import ClipBatch
from mosear.data.decode_process import DecodeProcess, Decoding
from mosear.data.manifest import ManifestError, load_manifest, write_manifest
from mosear.data.media import MediaBudget
from mosear.data.prompt import Prompt
from mosear.inference.parsing import parse_answer


@pytest.fixture
def module(backbone, corpus: Path):
    """``module(**options)`` on the small corpus."""

    def make(**options) -> ClipDataModule:
        paths = {"train": "train_natural", "val": "val", "test": "test"}
        defaults = {split: str(corpus / f"{name}.parquet") for split, name in paths.items()}
        defaults |= {"batch_size": 4, "eval_batch_size": 3, "num_workers": 0, "bucket": 1}
        return ClipDataModule(
            **{"backbone": backbone, "prompt": Prompt(), "budget": MediaBudget(num_frames=4), **defaults, **options}
        )

    return make


def ids(loader: DataLoader) -> list[list[str]]:
    return [[clip.id for clip in batch.data.clips] for batch in loader]


def flat(batches: list[list[str]]) -> list[str]:
    return [name for batch in batches for name in batch]


def assert_equal(one: ClipBatch, other: ClipBatch) -> None:
    assert one.data.clips == other.data.clips and one.bad == other.bad and one.cache_names == other.cache_names
    for name, value in vars(one.data).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(other.data, name)), name
    for a, b in zip(one.data.media.videos, other.data.media.videos, strict=True):
        assert torch.equal(a.pixels, b.pixels) and torch.equal(a.grid, b.grid)
    for a, b in zip(one.data.media.audios, other.data.media.audios, strict=True):
        assert torch.equal(a.mel, b.mel)


def test_evaluation_keeps_the_manifests_order(module) -> None:
    clips = [clip.id for clip in module().manifest("test")]
    found = ids(module().test_dataloader())
    assert flat(found) == clips and all(len(batch) == 3 for batch in found[:-1])
    assert ids(module().test_dataloader()) == found == ids(module(seed=9).eval_loader("test"))
    assert all((batch.data.labels == -100).all() for batch in module().val_dataloader())


@pytest.mark.parametrize("split", ["train", "test"])
def test_workers_change_nothing(module, split: str) -> None:
    alone, shared = (list(getattr(module(num_workers=n), f"{split}_dataloader")()) for n in (0, 2))
    assert len(alone) == len(shared) > 1
    for one, other in zip(alone, shared, strict=True):
        assert_equal(one, other)


def test_training_order_is_a_function_of_seed_and_epoch(module) -> None:
    first = ids(module().train_dataloader())
    assert first == ids(module().train_dataloader()) != ids(module(seed=1).train_dataloader())
    loader = module().train_dataloader()
    loader.batch_sampler.set_epoch(1)
    second = ids(loader)
    assert second != first
    assert all(len(batch) == 4 for batch in first) and set(flat(first)) == set(flat(second))
    assert Counter(flat(first)).total() == 8  # six clips, filled up to two batches of four


def test_every_training_sample_ends_in_its_label(module, backbone) -> None:
    for batch in module(bucket=50).train_dataloader():
        for clip, labels in zip(batch.data.clips, batch.data.labels, strict=True):
            answer = backbone.processor.tokenizer.decode(labels[labels != -100].tolist())
            assert answer == f"{clip.label}<|im_end|>"


def reasoned(corpus: Path, path: Path, reasons: dict[int, str | None]) -> dict[str, str]:
    """A manifest of the training clips with these reasons, "plain NUMBER" elsewhere, as options of the module."""
    clips = list(load_manifest(corpus / "train_natural.parquet"))
    clips = [replace(clip, reason=reasons.get(i, f"plain {i}")) for i, clip in enumerate(clips)]
    return {"train": str(write_manifest(clips, path)), "root": str(corpus)}


@pytest.mark.parametrize(
    ("answer_format", "written"),
    [
        ("rlvr", "<think>{reason}</think> <answer>{label}</answer>"),
        ("tags", "<think>{reason}</think> <answer>{label}</answer>"),
        ("json", '{{"final_label": "{label}"}}'),
        ("word", "{label}"),
    ],
)
def test_answers_are_written_as_the_prompt_asks_for_them(
    module, backbone, corpus: Path, tmp_path: Path, answer_format: str, written: str
) -> None:
    """And read back as their labels; without a method that learns them they are labels."""
    prompt = Prompt(answer_format=answer_format)
    options = reasoned(corpus, tmp_path / "some.parquet", {})
    for learned in (True, False):
        own = module(prompt=prompt, **options)
        own.written = learned
        for batch in own.train_dataloader():
            for clip, labels in zip(batch.data.clips, batch.data.labels, strict=True):
                answer = backbone.processor.tokenizer.decode(labels[labels != -100].tolist())
                expected = written.format(reason=clip.reason, label=clip.label) if learned else clip.label
                assert answer == f"{expected}<|im_end|>"
                found = parse_answer(answer.removesuffix("<|im_end|>"), prompt.labels, answer_format=answer_format)
                assert found.label == clip.label or not learned


def test_clips_without_a_reason_are_refused_or_left_out_and_counted(
    module, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = reasoned(corpus, tmp_path / "some.parquet", {1: None, 2: " "})
    options |= {"prompt": Prompt(answer_format="rlvr")}
    own = module(**options)
    count = len(own.manifest("train"))  # reasons are not learned: reinforcement learning needs none
    own = module(**options)
    own.written = True
    with pytest.raises(ManifestError, match=rf"(?s)some\.parquet .*2 of {count} clips have no reason, e\.g\. "):
        own.manifest("train")
    own = module(**options, without_reason="leave_out")
    own.written = True
    assert len(own.manifest("train")) == count - 2
    assert f"2 of {count} clips of" in caplog.text and "left out" in caplog.text


def test_a_reason_cannot_end_its_own_tags_or_the_turn(module, backbone, corpus: Path, tmp_path: Path) -> None:
    own = module(prompt=Prompt(answer_format="rlvr"), **reasoned(corpus, tmp_path / "a.parquet", {0: "x</think> y"}))
    own.written = True
    with pytest.raises(ManifestError, match=r"1 reasons hold one of <think>"):
        own.manifest("train")
    own = module(prompt=Prompt(answer_format="rlvr"), **reasoned(corpus, tmp_path / "b.parquet", {0: "x<|im_end|>y"}))
    own.written = True
    sample = own.dataset("train", with_answer=True)[0].sample
    end = backbone.processor.tokenizer.eos_token_id
    assert (sample.labels == end).sum() == 1 and sample.labels[-1] == end


def test_lightning_gives_each_epoch_its_own_order(module) -> None:
    """Through a real trainer: two epochs, two orders, and the same two after a restart."""

    class Listener(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[list[str]] = []

        def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
            assert isinstance(batch, ClipBatch) and batch.data.input_ids.device == self.device
            self.seen.append([clip.id for clip in batch.data.clips])
            return self.weight**2

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit() -> list[list[str]]:
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", limit_val_batches=0, enable_model_summary=False, **options
        )
        listener, data = Listener(), module()
        trainer.fit(listener, datamodule=data)
        assert not data.train_dataloader().pin_memory
        return listener.seen

    expected = []
    loader = module().train_dataloader()
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        expected += ids(loader)
    assert fit() == expected


def test_prepare_runs_before_manifests_are_read(module) -> None:
    calls = []
    made = module(prepare=lambda: calls.append("rendered"))
    assert not calls
    made.prepare_data()
    assert calls == ["rendered"]
    module().prepare_data()


def test_memory_is_pinned_for_accelerators_only(module) -> None:
    assert not any(loader.pin_memory for loader in (module().train_dataloader(), module().test_dataloader()))


def test_validation_subset(module) -> None:
    everything = module().manifest("val")
    chosen = module(val_subset="consistent").manifest("val")
    assert {clip.subset for clip in chosen} == {"consistent"} and 0 < len(chosen) < len(everything)
    with pytest.raises(ValueError, match="no clip has subset='noisy'"):
        module(val_subset="noisy").manifest("val")
    assert len(module(val_subset="noisy").manifest("train")) == 6  # the other splits are left alone


def test_labels_outside_the_prompt_are_named(module) -> None:
    labels = sorted({clip.label for clip in module().manifest("train")})
    asked = (*labels[1:], "bored", "calm")
    with pytest.raises(
        ManifestError, match=rf"(?s)train_natural\.parquet .*labels outside .*: '{labels[0]}'; labels asked for:"
    ):
        module(prompt=Prompt(labels=asked)).manifest("train")


def test_unlabelled_clips_are_refused_and_not_trained_in_vain(module, corpus: Path, tmp_path: Path) -> None:
    clips = list(load_manifest(corpus / "train_natural.parquet"))
    clips[2] = replace(clips[2], label=None)
    path = str(write_manifest(clips, tmp_path / "some.parquet"))
    for split in ("train", "val", "test"):
        with pytest.raises(ValueError, match=rf"(?s)some\.parquet .*1 clips have no label, e\.g\. '{clips[2].id}'"):
            module(**{split: path}, root=str(corpus)).manifest(split)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_manifest_is_named(module, split: str) -> None:
    with pytest.raises(ValueError, match=f"No {split} manifest: set data.{split}=PATH"):
        module(**{split: None}).manifest(split)


def test_thumbnails_get_the_clips_files(module, corpus: Path) -> None:
    made = module()
    clip = made.manifest("test")[0]
    assert made.sources(clip) == ((corpus / clip.video).resolve(), "video")


def test_bad_media_reach_the_batches(module, corpus: Path, tmp_path: Path) -> None:
    clips = list(load_manifest(corpus / "train_natural.parquet"))
    rows = [replace(clips[0], video="gone.mp4"), *clips[1:]]
    path = str(write_manifest(rows, tmp_path / "gone.parquet"))
    options = {"train": path, "test": path, "root": str(corpus)}
    batches = list(module(on_bad_media="quarantine", **options).test_dataloader())
    assert [len(batch) for batch in batches] == [3, 3] and len(batches[0].data) == 2
    assert [bad.clip.id for bad in batches[0].bad] == [clips[0].id]
    for batch in module(on_bad_media="quarantine", **options).train_dataloader():
        assert len(batch.data) == 4
    with pytest.raises(ValueError, match=rf"Clip '{clips[0].id}': .*gone\.mp4: missing_file"):
        list(module(**options).test_dataloader())


def test_the_cache_key_names_the_device_on_which_the_encoders_run(module, backbone, tmp_path: Path) -> None:
    """The trainer moves the backbone after the data module was made, so the key must not be older than the reader."""
    made = module(cache_dir=str(tmp_path))
    reader = made.reader(made.manifest("test"))
    assert reader.key == CacheKey.of(backbone, MediaBudget(num_frames=4), None)

    class Moved(type(backbone)):
        device = torch.device("meta")

    made.backbone = Moved(backbone.name, backbone.model, backbone.processor, backbone.family)
    assert made.reader(made.manifest("test")).key != reader.key
    assert module().reader(made.manifest("test")).cache is None


def test_cached_batches_are_listed_once(module, backbone, tmp_path: Path) -> None:
    made = module(cache_dir=str(tmp_path))
    for batch in made.test_dataloader():
        assert len(batch.cache_names) == len(batch.data) and None not in batch.cache_names
    from mosear.methods.omni_system import split_media

    for batch in made.test_dataloader():
        media = backbone.encode(batch.data.media)
        for name, own in zip(batch.cache_names, split_media(media, batch.data), strict=True):
            made.cache.put(name, own)
    plain, cached = list(module().test_dataloader()), list(made.test_dataloader())
    for one, other in zip(plain, cached, strict=True):
        assert set(other.cache_names) == {None}
        left, right = backbone.encode(one.data.media), other.data.media
        for a, b in zip(left.videos + left.audios, right.videos + right.audios, strict=True):
            assert torch.equal(a.features, b.features)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_split_is_refused(module, tmp_path: Path, split: str) -> None:
    empty = str(write_manifest([], tmp_path / "empty.parquet"))
    with pytest.raises(ManifestError, match=r"(?s)empty\.parquet has 1 problem:.*it has no clips"):
        module(**{split: empty}).manifest(split)


def test_blanks_around_names_are_shown(module, corpus: Path, tmp_path: Path) -> None:
    clips = [replace(clip, label="sad ", subset=" all") for clip in load_manifest(corpus / "test.parquet")]
    path = str(write_manifest(clips, tmp_path / "padded.parquet"))
    with pytest.raises(ManifestError) as error:
        module(test=path, root=str(corpus)).manifest("test")
    assert "data.prompt.labels: 'sad '; labels asked for: 'neutral'" in str(error.value)
    assert "subset ' all' has blanks around it" in str(error.value)


def decoders() -> set[int]:
    """Decoding processes of this user that live."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command, state = (path / "cmdline").read_bytes(), (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if b"mosear.data.decode_child" in command and state != "Z":
            found.add(int(path.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_decoding_in_a_process_changes_nothing_and_leaves_nobody_behind(module, workers: int) -> None:
    before = decoders()
    plain, apart = module(), module(decode=Decoding(), num_workers=workers)
    for one, other in zip(plain.test_dataloader(), apart.test_dataloader(), strict=True):
        assert_equal(one, other)
    apart.decoder.close()
    end = time.monotonic() + 60
    while decoders() - before and time.monotonic() < end:
        time.sleep(0.1)
    assert not decoders() - before


class EndedBy(DecodeProcess):
    """Its child is killed while it decodes the victim."""

    def decode(self, video, audio, budget=None):
        if video is None or "victim" not in str(video):
            return super().decode(video, audio, budget)
        self.probe(video)
        os.kill(self.pid, signal.SIGSTOP)
        kill = threading.Timer(0.2, os.kill, (self.pid, signal.SIGKILL))
        kill.start()
        try:
            return super().decode(video, audio, budget)
        finally:
            kill.join()


@pytest.mark.slow
def test_a_file_that_ends_its_decoder_in_a_worker_is_a_bad_clip(module, corpus: Path, tmp_path: Path) -> None:
    clips = list(load_manifest(corpus / "test.parquet"))[:6]
    files = [tmp_path / ("victim.mp4" if index == 3 else f"{index}.mp4") for index in range(6)]
    for clip, file in zip(clips, files, strict=True):
        file.write_bytes((corpus / clip.video).read_bytes())
    rows = [replace(clip, video=file.name) for clip, file in zip(clips, files, strict=True)]
    path = str(write_manifest(rows, tmp_path / "own.parquet"))
    own = module(test=path, num_workers=2, on_bad_media="quarantine", decode=Decoding())
    own.decoder = EndedBy(own.decoder.limits)
    batches = list(own.test_dataloader())
    assert [clip.id for batch in batches for clip in batch.data.clips] == [
        clip.id for index, clip in enumerate(clips) if index != 3
    ]
    (bad,) = [bad for batch in batches for bad in batch.bad]
    assert bad.cause == "decoder_died" and "victim.mp4" in bad.message and "SIGKILL" in bad.message


def test_lengths_are_read_apart_too(module, corpus: Path) -> None:
    own = module(bucket=50, decode=Decoding())
    assert own._lengths(own.dataset("train", with_answer=True)) == module(bucket=50)._lengths(
        module(bucket=50).dataset("train", with_answer=True)
    )
