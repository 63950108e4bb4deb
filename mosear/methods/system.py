"""What a run trains and tests: a LightningModule that ends in prediction rows.

``system=NAME`` chooses a builder (``conf/system/NAME.yaml``), which gives a :class:`System`; the flows, results, W&B
and the report know nothing else about it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule, LightningModule

from mosear.evaluation.predictions import PredictionRow

if TYPE_CHECKING:
    from mosear.data.clip import Clip
    from mosear.evaluation.report import LineChart, Table

ZERO_SHOT, TUNED = "zero_shot", "tuned"


class System(LightningModule):
    """One system of a run.

    Attributes:
        data: its clips.
        labels: the label list, in the order of every distribution.
        synonyms: other spellings of labels in generated answers.
        run: constant columns of the predictions (benchmark, model, steering, seed).
        rows: predictions of the last test, all processes', in the order of the test set.
    """

    data: LightningDataModule
    labels: Sequence[str]
    synonyms: Mapping[str, str] = {}
    run: dict[str, Any]
    rows: list[PredictionRow]

    @property
    @abstractmethod
    def is_tuned(self) -> bool:
        """Is there anything beside the untuned model, which is then the reference?"""

    @abstractmethod
    def untuned(self) -> AbstractContextManager[None]:
        """The reference, for a block: the model as it was before it was tuned."""

    @abstractmethod
    def parameter_counts(self) -> dict[str, int]:
        """``trainable`` and ``frozen`` parameters, those of other processes too."""

    @abstractmethod
    def save(self, directory: Path, *, write: bool = True) -> None:
        """Write the trained weights to a new directory. All processes call it; the first one writes."""

    @abstractmethod
    def restore(self, directory: Path) -> None:
        """Take the weights that were saved during training. All processes call it."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Heads the report."""

    @abstractmethod
    def about(self) -> Mapping[str, Any]:
        """What the report says about the model, in a few plain entries."""

    def test_clips(self) -> Mapping[str, Clip]:
        """Clips of the test set by id, where benchmark metrics and example clips are wanted."""
        return {}

    def media(self, clip: Clip) -> tuple[Path | None, Path | str | None]:
        """Video and sound file of a test clip."""
        return None, None

    def test_summary(self) -> Mapping[str, Any]:
        """What the last test measured beside its rows: entries of the system's summary in ``metrics.json``."""
        return {}

    def summary(self) -> Mapping[str, Any]:
        """What ``metrics.json`` says at the end of a run, beside the scores."""
        return {}

    def charts(self) -> Sequence[LineChart]:
        """For the report."""
        return ()

    def tables(self) -> Sequence[Table]:
        """For W&B, and as ``NAME.csv`` in the run directory."""
        return ()
