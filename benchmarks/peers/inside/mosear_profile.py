"""Where mosear's training step spends its time: the callback :class:`Profile`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer import call

from mosear.backbones.backbone import OmniBackbone
from mosear.data import dataset
from mosear.data.media_processor import MediaProcessor
from mosear.data.sample import SampleBuilder
from mosear.methods.answer_tuning.loss import AnswerRows


class Stopwatch:
    """CPU time by part, each without what happens in parts inside it.

    Attributes:
        seconds: by part.
        running: whether time counts at present.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.running = False
        self._open: list[str] = []
        self._since = 0.0

    def around(self, owner: Any, name: str, part: str) -> None:
        """Replace a function by one that is timed."""
        own: Callable[..., Any] = getattr(owner, name)

        @wraps(own)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._open.append(part)
            try:
                return own(*args, **kwargs)
            finally:
                self._switch()
                self._open.pop()

        setattr(owner, name, timed)

    def start(self) -> None:
        """From here on time counts."""
        self.running, self._since = True, time.process_time()

    def stop(self) -> None:
        """No more."""
        self._switch()
        self.running = False

    def _switch(self) -> None:
        now = time.process_time()
        if self.running:
            self.seconds[self._open[-1] if self._open else "rest of the loop"] += now - self._since
        self._since = now


class Profile(Callback):
    """Times the parts of the steps after the first ones.

    Args:
        path: JSON file to write: seconds by part and the number of steps.
        warmup: steps that do not count.
    """

    def __init__(self, path: str, warmup: int = 2) -> None:
        self.path, self.warmup = Path(path), warmup
        self.watch = Stopwatch()
        self.steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything that is timed exists now."""
        family, decoder = (type(own) for own in (pl_module.backbone.family, pl_module.backbone.language_model))
        for owner, name, part in (
            (dataset, "decode", "decode"),
            (MediaProcessor, "_video_input", "video processor"),
            (MediaProcessor, "_audio_input", "mel"),
            (SampleBuilder, "build", "prompt and positions"),
            (dataset, "collate", "collate"),
            (family, "encode_video", "visual tower"),
            (family, "encode_audio", "audio tower"),
            (OmniBackbone, "embed", "embedding"),
            (decoder, "__call__", "decoder, forward"),
            (AnswerRows, "of", "head and loss"),
            (AnswerRows, "loss", "head and loss"),
            (torch.Tensor, "backward", "backward"),
            (trainer.optimizers[0], "step", "optimiser"),
            (torch.nn.utils, "clip_grad_norm_", "clipping"),
            (call, "_call_callback_hooks", "callbacks"),
            (trainer._logger_connector, "log_metrics", "logging"),
        ):
            self.watch.around(owner, name, part)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts from the end of the warm-up."""
        self.steps += self.watch.running
        if batch_idx + 1 == self.warmup:
            self.watch.start()
        if trainer.global_step == trainer.max_steps:
            self.watch.stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write."""
        found = {"seconds": dict(self.watch.seconds), "steps": self.steps}
        self.path.write_text(json.dumps(found), encoding="utf-8")
