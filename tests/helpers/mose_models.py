"""Tiny backbones with a MoSE adapter whose every weight is random (a fresh one adds nothing, which proves little)."""

from dataclasses import replace
from typing import Any

import peft
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.data.sample import OmniBatch
from mosear.experts import MoSEConfig
from tests.helpers.omni_samples import fresh

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def adapted(
    backbone: OmniBackbone, *, wake: float = 0.2, dtype: torch.dtype = torch.float32, **config: Any
) -> tuple[OmniBackbone, peft.PeftModel]:
    """A copy of the backbone with MoSE; ``wake`` is the spread of its weights (0: as initialised). In eval mode."""
    own = fresh(backbone)
    own.model.to(dtype)
    own.freeze()
    model = peft.get_peft_model(own.model, MoSEConfig(**{"r": 2, "alpha": 4, **config}))
    if wake:
        with torch.no_grad():
            for parameter in trained(model).values():
                torch.nn.init.normal_(parameter, std=wake)
    return own, model.eval()


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def states(backbone: OmniBackbone, batch: OmniBatch, cache: Any = None) -> Tensor:
    """Hidden states of the whole batch, prompt and answer, in one pass."""
    embeds, extra = backbone.embed(batch.input_ids, batch.media)
    if torch.is_grad_enabled():
        embeds.requires_grad_(True)
    return backbone.hidden_states(embeds, batch.attention_mask, batch.position_ids, cache, **extra)


def right_padded(batch: OmniBatch) -> OmniBatch:
    """The same left-padded samples with their padding moved to the end."""
    lengths = batch.attention_mask.sum(1).tolist()
    shift = [batch.attention_mask.shape[1] - length for length in lengths]

    def move(tensor: Tensor) -> Tensor:
        return torch.stack([row.roll(-by, dims=-1) for row, by in zip(tensor, shift, strict=True)])

    names = ("input_ids", "attention_mask", "roles", "transcript", "labels", "prompt_mask")
    moved = {name: move(getattr(batch, name)) for name in names}
    return replace(batch, position_ids=move(batch.position_ids.transpose(0, 1)).transpose(0, 1).contiguous(), **moved)


def real(values: Tensor, batch: OmniBatch) -> list[Tensor]:
    """Per sample, the rows of its real tokens."""
    return [row[mask.bool()] for row, mask in zip(values, batch.attention_mask, strict=True)]
