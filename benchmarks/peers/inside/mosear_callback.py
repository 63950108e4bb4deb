"""Recording and equal labels for mosear: the callback :class:`Record`."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from benchmarks.peers.inside.recorder import Recorder
from mosear.data.sample import SampleBuilder


class PeerBuilder(SampleBuilder):
    """Trains on the newline behind the end token as well, as both peers do."""

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer, with the end token and a newline."""
        return [*super().answer_ids(answer), *self.processor.tokenizer("\n", add_special_tokens=False)["input_ids"]]


class Record(Callback):
    """A :class:`Recorder` as a callback.

    Args:
        path: JSON file to write.
    """

    def __init__(self, path: str) -> None:
        self.recorder = Recorder(path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before the loaders are made."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        own = data.builder
        if stage == "fit" and not isinstance(own, PeerBuilder):
            data.builder = PeerBuilder(
                own.processor, own.family, own.prompt, interleave=own.interleave, max_tokens=own.max_tokens
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The adapter is there."""
        self.recorder.begin(pl_module.network)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is done."""
        self.recorder.step()
        self.recorder.loss(float(outputs["loss"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the test."""
        self.recorder.end()
