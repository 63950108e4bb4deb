"""Throughput: what it counts, what it logs, and that a resumed run goes on counting."""

from __future__ import annotations

import logging
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mosear.backbones.media import EncodedAudio, EncodedVideo, MediaBatch
from mosear.callbacks import Throughput
from mosear.callbacks.throughput import duration, media_seconds
from mosear.data.dataset import ClipBatch
from tests.helpers.toy_tuner import ToyTuner, clip_batch, fit


def test_it_counts_clips_tokens_and_seconds_of_media(tmp_path, caplog):
    throughput = Throughput(report_every=1e-9)
    module = ToyTuner()
    with caplog.at_level(logging.INFO):
        trainer = fit(module, [clip_batch("a", "b"), clip_batch("c", length=4)], tmp_path, throughput)
    assert (throughput.trained.clips, throughput.trained.tokens) == (3, 2 * 6 + 4)
    assert throughput.trained.media == pytest.approx(3 * (2 * 0.25 + 0.8))
    logged = {name.removeprefix("train/") for name in trainer.callback_metrics if name.startswith("train/")}
    assert logged == throughput.trained.rates().keys() and len(logged) == 5
    totals = throughput.trained.rates()
    assert totals["clips_per_second"] == pytest.approx(3 / throughput.trained.seconds, abs=0.01)
    assert 0 <= totals["data_wait_share"] <= 1 and totals["peak_memory_gb"] > 0
    assert "Step 1 of 2, about " in caplog.text and "Step 2 of 2, about 0 s left" in caplog.text


def test_media_that_are_encoded_already_count_as_much():
    media = MediaBatch(
        [EncodedVideo(torch.zeros(2, 4), torch.tensor([3, 2, 2]), 0.5)], [EncodedAudio(torch.zeros(1, 4), 120)]
    )
    assert media_seconds(media) == pytest.approx(3 * 0.5 + 1.2)
    assert media_seconds(MediaBatch()) == 0


def test_a_resumed_run_goes_on_counting(tmp_path):
    first, second = Throughput(), Throughput()
    fit(ToyTuner(), [clip_batch("a")], tmp_path, first)
    second.load_state_dict(first.state_dict())
    fit(ToyTuner(), [clip_batch("b")], tmp_path, second)
    assert second.trained.clips == 2 and second.trained.seconds > first.trained.seconds


class SlowData(Dataset):
    """Two batches, each a tenth of a second away."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> ClipBatch:
        if index >= len(self):
            raise IndexError(index)
        time.sleep(0.1)
        return clip_batch("a", "b")


def test_a_test_counts_on_its_own_and_knows_how_long_it_waited(tmp_path):
    throughput = Throughput()
    trainer = fit(ToyTuner(), [clip_batch("a")], tmp_path, throughput)
    for _ in range(2):  # the second test forgets the first
        trainer.test(ToyTuner(), DataLoader(SlowData(), batch_size=None), verbose=False)
    assert (throughput.trained.clips, throughput.tested.clips) == (1, 4)
    assert 0.2 <= throughput.tested.waited <= throughput.tested.seconds
    assert throughput.tested.rates()["data_wait_share"] > 0.5, "the model has next to nothing to do"


@pytest.mark.parametrize(("seconds", "text"), [(40.4, "40 s"), (700, "12 min"), (11_100, "3 h 05 min")])
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_a_wrong_interval_is_refused():
    with pytest.raises(ValueError, match="report_every=0 must be positive"):
        Throughput(report_every=0)
