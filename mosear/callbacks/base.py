"""What a run asks of its callbacks beside Lightning's hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from mosear.callbacks.checkpoint_files import Note
    from mosear.evaluation.report import LineChart, Table

Phase = Literal["trained", "tested"]


class RunCallback(Callback):
    """A callback that takes part in a run. All of this is optional; results, W&B and the report iterate over it."""

    def on_run_start(self, settings: Mapping[str, Any], resumed: tuple[Path, Note] | None) -> None:
        """Before training.

        Args:
            settings: everything that training depends on, by dotted key.
            resumed: the checkpoint that the run goes on from.
        """

    def saved_weights(self) -> Path | None:
        """A directory with the weights that the test is to use, if this callback saved any."""
        return None

    def rates(self, phase: Phase) -> Mapping[str, float]:
        """Figures about the run itself, for its summary."""
        return {}

    def test_summary(self) -> Mapping[str, Any]:
        """After a test: entries of the tested system's summary in ``metrics.json``."""
        return {}

    def test_tables(self) -> Sequence[Table]:
        """After a test: tables about the tested system."""
        return ()

    def summary(self) -> Mapping[str, Any]:
        """At the end of the run: entries of ``metrics.json``."""
        return {}

    def charts(self) -> Sequence[LineChart]:
        """At the end of the run: for the report."""
        return ()

    def tables(self) -> Sequence[Table]:
        """At the end of the run: tables about all of it."""
        return ()

    def files(self) -> Mapping[str, Path]:
        """At the end of the run: files that the report links to, by what they hold."""
        return {}


def run_callbacks(callbacks: Sequence[Callback]) -> list[RunCallback]:
    """Those that take part in the run."""
    return [callback for callback in callbacks if isinstance(callback, RunCallback)]
