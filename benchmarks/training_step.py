"""Training clips in memory and a whole training step of them, for the benchmarks that time one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from mosear.backbones import OmniBackbone
from mosear.data.clip import Clip
from mosear.data.datamodule import ClipDataModule
from mosear.data.media import Media, MediaBudget
from mosear.data.media_processor import MediaProcessor
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, SampleBuilder, collate
from mosear.data.synthetic.clips import FPS, render_clip_arrays
from mosear.data.synthetic.plans import GROUPS, clip_rngs, plan_clip
from mosear.methods.answer_tuning import AnswerTuning
from mosear.methods.omni_system import OmniSystem
from mosear.methods.optim import Tuning, build_optimiser

SECONDS = 2
"""Of a rendered clip."""


@dataclass(frozen=True)
class Size:
    """Of one step."""

    clips: int = 8
    frames: int = 8
    seconds: int = SECONDS
    experts: int = 1


def raw_batch(backbone: OmniBackbone, size: Size, prompt: Prompt | None = None) -> OmniBatch:
    """Training clips of the synthetic corpus with answers; longer ones repeat themselves."""
    processor = MediaProcessor(backbone.processor)
    builder = SampleBuilder(backbone.processor, backbone.family, prompt or Prompt(), max_tokens=100_000)
    samples = []
    for index in range(size.clips):
        plan = plan_clip(0, GROUPS[0], index)
        frames, sound = render_clip_arrays(plan.face, plan.voice, plan.speaker, clip_rngs(0, GROUPS[0], index)[1])
        whole = np.concatenate([frames] * max(1, size.seconds // SECONDS))
        chosen = np.arange(size.frames) * len(whole) // size.frames
        repeated = np.concatenate([sound] * max(1, size.seconds // SECONDS))
        media = processor(Media(whole[chosen], size.frames / size.seconds, repeated, len(whole) / FPS))
        clip = Clip(id=plan.id, video=plan.path, audio="video", text=plan.text, label=plan.label)
        samples.append(builder.build(clip, media, answer=plan.label))
    return collate(samples, builder.pad_id)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that train."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class TrainingStep:
    """Forward and loss of ``method=answer_tuning``, backward, clipping, AdamW.

    Args:
        backbone: its model carries the adapter's layers.
        network: the PEFT model around it.
        batch: encoded media; may be replaced between steps.
        precision: context of forward and backward.
        tuning: settings of the optimiser.
    """

    def __init__(
        self,
        backbone: OmniBackbone,
        network: nn.Module,
        batch: OmniBatch,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        tuning: Tuning | None = None,
    ) -> None:
        self.network, self.batch, self.precision, self.method = network, batch, precision, AnswerTuning()
        data = ClipDataModule(backbone=backbone, prompt=Prompt(), budget=MediaBudget())
        system = OmniSystem(backbone, network, data, method=self.method, tuning=tuning)
        self.method.setup(system)
        system.on_train_epoch_start()
        self.optimiser = build_optimiser(system.parameters(), system.tuning)

    def __call__(self) -> Tensor:
        """Returns the loss of the answers."""
        with self.precision():
            loss = self.method.loss(self.batch, 0)
            loss.value.backward()
        nn.utils.clip_grad_norm_(trainable(self.network), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.logs["loss"]
