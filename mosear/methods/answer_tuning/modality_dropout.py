"""Modality dropout: a clip with picture and sound loses one of them for a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mosear.experts.hooks import mose_hooks

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch
    from mosear.methods.processes import Part

STREAM = 0x44524F50
"""Keeps these draws apart from other generators that are seeded with the run's seed and counters."""


def modality_draws(part: Part, seed: int, counter: tuple[int, int]) -> Tensor:
    """One uniform number per clip: ``[B]``, a function of seed, counter and the clip's place in the global batch.

    Args:
        part: this process's clips.
        seed: of the run.
        counter: optimiser steps so far, and the micro-batch.
    """
    everyone = np.random.default_rng([STREAM, seed, *counter]).random(part.clips)
    return torch.from_numpy(everyone[part.positions])


def dropped_modality(backbone: OmniBackbone, data: OmniBatch, draws: Tensor) -> Tensor | None:
    """Tokens to hide in this step: ``[B, L]`` bool, or ``None`` if nothing is hidden.

    With probability ``modality_dropout`` of the active MoSE adapter, all visual or all audio tokens (even odds) of a
    sample that has both. Positions stay as they are; attention, token masks and the gate's means lose them.

    Args:
        backbone: with its adapter.
        data: the clips.
        draws: of :func:`modality_draws`, on the CPU.
    """
    hooks = mose_hooks(backbone)
    config = hooks.active_config() if hooks is not None else None
    if config is None or config.modality_dropout == 0:
        return None
    language_model: Any = backbone.language_model
    if language_model.config._attn_implementation != "sdpa":  # eager adds a mask, flash ignores it: nothing hidden
        raise ValueError(
            f"modality_dropout={config.modality_dropout} needs boolean attention masks. Load the backbone with "
            "attn_implementation='sdpa' or set modality_dropout to 0."
        )
    visual, audio = data.hidden_keys("visual"), data.hidden_keys("audio")
    both = visual.any(1) & audio.any(1)
    drop = (draws < config.modality_dropout).to(both.device) & both
    lose_visual = (draws < config.modality_dropout / 2).to(both.device)
    hidden = torch.where(lose_visual[:, None], visual, audio) & drop[:, None]
    return hidden if bool(hidden.any()) else None
