"""Media of a batch on their way between processes: nothing changes, and there is one tensor to send."""

import pickle
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from mosear.backbones.media import AudioInput, EncodedAudio, EncodedVideo, MediaBatch, VideoInput

GRID = torch.tensor([2, 4, 6])


def encoded(dtype: torch.dtype) -> MediaBatch:
    """Odd sizes, so that tensors behind one another would not be aligned by themselves."""
    deepstack = (torch.randn(5, 3).to(dtype), torch.randn(5, 3).to(dtype))
    videos = [
        EncodedVideo(torch.randn(5, 3).to(dtype), GRID, 0.5, deepstack),
        EncodedVideo(torch.ones(1, 3), GRID, 1.0),
    ]
    return MediaBatch(videos, [EncodedAudio(torch.randn(3, 7).T.to(dtype), 14), EncodedAudio(torch.empty(0, 3), 0)])


BATCHES = {
    "raw": MediaBatch([VideoInput(torch.randn(48, 11), GRID, 0.5)], [AudioInput(torch.randn(128, 33))]),
    "float32": encoded(torch.float32),
    "bfloat16": encoded(torch.bfloat16),
    "mixed": MediaBatch([VideoInput(torch.randn(48, 11), GRID, 0.5)], encoded(torch.bfloat16).audios),
    "nothing": MediaBatch(),
}


def tensors_of(media: MediaBatch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    media.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def check_same(found: MediaBatch, expected: MediaBatch) -> None:
    for own, other in zip((*found.videos, *found.audios), (*expected.videos, *expected.audios), strict=True):
        assert type(own) is type(other)
        plain, wanted = (
            {name: value for name, value in vars(item).items() if isinstance(value, int | float)}
            for item in (own, other)
        )
        assert plain == wanted
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=True))
    for one, another in pairs:
        assert one.dtype == another.dtype and one.shape == another.shape and torch.equal(one, another)


class Repeated(IterableDataset[MediaBatch]):
    def __init__(self, media: MediaBatch) -> None:
        self.media = media

    def __iter__(self) -> Iterator[MediaBatch]:
        yield from (self.media, self.media)


@pytest.mark.parametrize("name", BATCHES)
def test_media_are_pickled_as_one_tensor(name: str) -> None:
    found = pickle.loads(pickle.dumps(BATCHES[name]))
    check_same(found, BATCHES[name])
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors_of(found) if tensor.numel()}) <= 1


@pytest.mark.parametrize("name", BATCHES)
def test_media_come_out_of_a_worker_as_they_went_in(name: str) -> None:
    loader = DataLoader(Repeated(BATCHES[name]), batch_size=None, num_workers=1)
    batches = list(loader)
    assert len(batches) == 2
    for found in batches:
        check_same(found, BATCHES[name])
        storages = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(found) if tensor.numel()}
        assert len(storages) <= 1
        assert all(tensor.is_shared() for tensor in tensors_of(found) if tensor.numel())


def test_media_move_to_a_device() -> None:
    moved = BATCHES["bfloat16"].to("meta")
    assert [tensor.device.type for tensor in tensors_of(moved)] == ["meta"] * 8
    assert [tensor.shape for tensor in tensors_of(moved)] == [t.shape for t in tensors_of(BATCHES["bfloat16"])]
