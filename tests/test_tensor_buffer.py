"""Batches on their way between processes: nothing changes, and there are two tensors to send."""

import pickle
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from mosear.backbones.media import AudioInput, EncodedAudio, EncodedVideo, MediaBatch, VideoInput
from mosear.data.clip import Clip
from mosear.data.sample import OmniBatch

GRID = torch.tensor([2, 4, 6])


def encoded(dtype: torch.dtype) -> MediaBatch:
    """Odd sizes: tensors behind one another would not be aligned by themselves."""
    deepstack = (torch.randn(5, 3).to(dtype), torch.randn(5, 3).to(dtype))
    videos = [
        EncodedVideo(torch.randn(5, 3).to(dtype), GRID, 0.5, deepstack),
        EncodedVideo(torch.ones(1, 3), GRID, 1.0),
    ]
    return MediaBatch(videos, [EncodedAudio(torch.randn(3, 7).T.to(dtype), 14), EncodedAudio(torch.empty(0, 3), 0)])


MEDIA = {
    "raw": MediaBatch([VideoInput(torch.randn(48, 11), GRID, 0.5)], [AudioInput(torch.randn(128, 33))]),
    "float32": encoded(torch.float32),
    "bfloat16": encoded(torch.bfloat16),
    "mixed": MediaBatch([VideoInput(torch.randn(48, 11), GRID, 0.5)], encoded(torch.bfloat16).audios),
    "nothing": MediaBatch(),
}


def batch_of(name: str) -> OmniBatch:
    """Two clips of three tokens; positions between whole numbers, as one family has them."""
    ids = torch.arange(6).view(2, 3)
    return OmniBatch(
        clips=[Clip(id="a", text="x"), Clip(id="b", text="y")],
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.arange(18).view(3, 2, 3) / 4,
        roles=ids % 2,
        transcript=ids > 3,
        labels=-ids,
        prompt_mask=ids < 5,
        media=MEDIA[name],
    )


def tensors_of(batch: OmniBatch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Features of the media, and the others."""
    own: list[torch.Tensor] = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    batch.media.map(lambda tensor: own.append(tensor) or tensor)  # type: ignore[func-returns-value]
    media = own[7:]
    return [t for t in media if t.is_floating_point()], [*own[:7], *(t for t in media if not t.is_floating_point())]


def check_same(found: OmniBatch, expected: OmniBatch) -> None:
    assert found.clips == expected.clips
    items, wanted = ((*batch.media.videos, *batch.media.audios) for batch in (found, expected))
    for own, other in zip(items, wanted, strict=True):
        assert type(own) is type(other)
        for name, value in vars(other).items():
            assert not isinstance(value, int | float) or getattr(own, name) == value
    for group, others in zip(tensors_of(found), tensors_of(expected), strict=True):
        for one, another in zip(group, others, strict=True):
            assert one.dtype == another.dtype and torch.equal(one, another)
        assert len({tensor.untyped_storage().data_ptr() for tensor in group if tensor.numel()}) <= 1


class Repeated(IterableDataset[OmniBatch]):
    def __init__(self, batch: OmniBatch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[OmniBatch]:
        yield from (self.batch, self.batch)


@pytest.mark.parametrize("name", MEDIA)
def test_pickled_as_two_tensors(name: str) -> None:
    check_same(pickle.loads(pickle.dumps(batch_of(name))), batch_of(name))


@pytest.mark.parametrize("name", MEDIA)
def test_out_of_a_worker_as_it_went_in(name: str) -> None:
    batches = list(DataLoader(Repeated(batch_of(name)), batch_size=None, num_workers=1))
    assert len(batches) == 2
    for found in batches:
        check_same(found, batch_of(name))
        assert all(tensor.is_shared() for group in tensors_of(found) for tensor in group if tensor.numel())


def test_ids_do_not_keep_pixels() -> None:
    found = pickle.loads(pickle.dumps(batch_of("raw")))
    pixels = found.media.videos[0].pixels
    for kept in tensors_of(found)[1]:
        assert kept.untyped_storage().data_ptr() != pixels.untyped_storage().data_ptr()


def test_moved_to_a_device() -> None:
    moved, batch = batch_of("bfloat16").to("meta"), batch_of("bfloat16")
    for group, others in zip(tensors_of(moved), tensors_of(batch), strict=True):
        assert [(t.device.type, t.shape, t.dtype) for t in group] == [("meta", t.shape, t.dtype) for t in others]
