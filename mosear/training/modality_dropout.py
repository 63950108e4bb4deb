"""Modality dropout: a clip with picture and sound loses one of them for a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mosear.experts.state import conductor_of

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch


def dropped_modality(backbone: OmniBackbone, data: OmniBatch) -> Tensor | None:
    """Tokens to hide in this step: ``[B, L]`` bool, or ``None`` if nothing is hidden.

    With probability ``modality_dropout`` of the active MoSE adapter, all visual or all audio tokens (even odds) of a
    sample that has both. Positions stay as they are; attention, token masks and the gate's means lose them.
    """
    conductor = conductor_of(backbone)
    config = conductor.active_config() if conductor is not None else None
    if config is None or config.modality_dropout == 0:
        return None
    language_model: Any = backbone.language_model
    if language_model.config._attn_implementation != "sdpa":  # eager adds a mask, flash ignores it: nothing hidden
        raise ValueError(
            f"modality_dropout={config.modality_dropout} needs boolean attention masks. Load the backbone with "
            "attn_implementation='sdpa' or set modality_dropout to 0."
        )
    visual, audio = data.hidden_keys("visual"), data.hidden_keys("audio")
    # On the CPU: the draw is the same whatever the device, and costs no synchronisation.
    draws = torch.rand(len(data))
    both = visual.any(1) & audio.any(1)
    drop = (draws < config.modality_dropout).to(both.device) & both
    lose_visual = (draws < config.modality_dropout / 2).to(both.device)
    hidden = torch.where(lose_visual[:, None], visual, audio) & drop[:, None]
    return hidden if bool(hidden.any()) else None
