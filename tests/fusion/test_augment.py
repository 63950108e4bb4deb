"""Modalities that clips lose in training, and noise."""

from dataclasses import replace

import pytest
import torch

from mosear.data.clip import Clip
from mosear.fusion.augment import Augment, noisy_clips, spread
from tests.helpers.fusion_models import DIMENSIONS, one_row, random_batch


def test_without_settings_nothing_changes() -> None:
    batch = random_batch()
    assert Augment()(batch) is batch


def test_modalities_are_lost_at_the_rate_and_one_stays() -> None:
    lengths = {name: [2] * 4000 for name in DIMENSIONS}
    torch.manual_seed(0)
    dropped = Augment(modality_dropout=0.4)(random_batch(lengths=lengths))
    there = torch.stack([dropped.present(name) for name in DIMENSIONS], dim=1)
    assert bool(there.any(1).all())
    kept_alone = 0.4**3  # those that would have lost all keep one of three
    assert float(there.float().mean()) == pytest.approx(0.6 + kept_alone / 3, abs=0.01)
    for name in DIMENSIONS:
        assert not dropped.features[name][~dropped.present(name)].any()


def test_a_clip_never_gets_a_modality_that_it_lacks() -> None:
    torch.manual_seed(0)
    batch = random_batch().without(["video", "text"])
    for _ in range(20):
        found = Augment(modality_dropout=0.9)(batch)
        assert bool(found.present("audio").all()) and not bool(found.present("video").any())


def test_noise_has_the_size_that_it_says() -> None:
    lengths = {name: [50] * 200 for name in DIMENSIONS}
    batch = random_batch(lengths=lengths)
    torch.manual_seed(0)
    noise = Augment(noise=0.5)(batch).features["video"] - batch.features["video"]
    assert float(noise.std()) == pytest.approx(0.5 * spread(batch, "video"), rel=0.02)


def test_padding_stays_empty() -> None:
    batch = random_batch()
    found = Augment(noise=1.0)(batch)
    for name in DIMENSIONS:
        assert not found.features[name][~batch.mask(name)].any()


def test_noise_of_a_test_clip_depends_on_its_id_alone() -> None:
    clips = [Clip(id=f"c{row}", text="x") for row in range(4)]
    batch = replace(random_batch(), clips=clips)
    spreads = dict.fromkeys(DIMENSIONS, 2.0)
    together = noisy_clips(batch, 0.5, spreads)
    for row, clip in enumerate(clips):
        alone = noisy_clips(replace(one_row(batch, row), clips=[clip]), 0.5, spreads)
        for name in DIMENSIONS:
            steps = int(batch.lengths[name][row])
            assert torch.equal(alone.features[name][0, :steps], together.features[name][row, :steps])
    assert not torch.equal(together.features["video"], batch.features["video"])
