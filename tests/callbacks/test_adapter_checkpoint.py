"""Which weights are kept: the best of the finite validations, or the last, and never any that are not finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from mosear.callbacks import AdapterCheckpoint
from mosear.callbacks.loss_guard import BadLossError
from tests.helpers.toy_tuner import ToyData, ToyTuner, clip_batch, fit

NAN = float("nan")


class Tuner(ToyTuner):
    """Writes its weights to a file, and says what its validations are to find.

    Args:
        losses: of one validation after the other; ``None`` = none is logged.
        broken_from: the epoch after which the weights are NaN.
    """

    def __init__(self, losses: list[float | None], broken_from: int | None = None) -> None:
        super().__init__()
        self.losses, self.broken_from = losses, broken_from

    def validation_step(self, batch, batch_idx):
        value = self.losses[self.current_epoch]
        if value is not None:
            self.log("val/loss", value, batch_size=1)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.current_epoch == self.broken_from:
            self.weight.data.fill_(NAN)

    def save(self, directory: Path, *, write: bool = True) -> None:
        directory.mkdir()
        torch.save((self.current_epoch, self.weight.data), directory / "weights.pt")


class Data(ToyData):
    def train_dataloader(self):
        return DataLoader([clip_batch("a", "bb")], batch_size=None)


def kept(tmp_path: Path, module: Tuner, select: str = "best") -> tuple[int, torch.Tensor]:
    callback = AdapterCheckpoint(str(tmp_path / "adapter"), select=select)
    fit(module, Data(), tmp_path, callback, max_epochs=len(module.losses))
    return torch.load(tmp_path / "adapter" / "weights.pt", weights_only=True)


@pytest.mark.parametrize(
    ("losses", "epoch"),
    [
        ([0.5, 0.2, 0.3], 1),
        ([0.5, NAN, 0.3], 2),
        ([NAN, 0.9, NAN], 1),
        ([float("-inf"), 0.9, 0.95], 1),
        ([NAN, float("inf"), NAN], 3),  # nothing to choose by: the end
        ([None, None], 2),
    ],
)
def test_the_best_is_the_lowest_that_is_finite(losses, epoch, tmp_path):
    assert kept(tmp_path, Tuner(losses))[0] == epoch


def test_weights_that_broke_later_do_not_touch_the_best(tmp_path):
    epoch, weights = kept(tmp_path, Tuner([0.5, NAN], broken_from=1))
    assert epoch == 0 and weights.isfinite().all()


@pytest.mark.parametrize(("select", "losses"), [("last", [0.5, 0.4]), ("best", [None, None]), ("best", [NAN, NAN])])
def test_broken_weights_are_not_saved_at_the_end(select, losses, tmp_path):
    with pytest.raises(BadLossError, match=r"weights that are not finite .weight., so no adapter is saved"):
        kept(tmp_path, Tuner(losses, broken_from=1), select)
    assert not (tmp_path / "adapter").exists()
