"""Where the networks of MSE adapters live in a model: one per adapter, beside the decoder's layers."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mosear.experts.mse.config import MSEConfig
from mosear.experts.mse.mixer import PseudoTokenMixer

MERGE = (
    "An MSE adapter cannot be merged: it makes tokens out of each clip, which no weight of the decoder does. Keep it "
    "beside the backbone (save_pretrained / from_pretrained), or call unload() to get the bare backbone back."
)


class PseudoTokenLayer(nn.Module, BaseTunerLayer):
    """Media tokens and words of the prompts to pseudo tokens, in float32.

    Args:
        width: of the embeddings; the towers put out as much.
        device: where they live.
    """

    adapter_layer_names = ("mse_networks",)
    other_param_names = ("tokens",)

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.width, self.device = width, device
        self.mse_networks = nn.ModuleDict()
        self.tokens: dict[str, int] = {}

    def update_layer(self, adapter_name: str, config: MSEConfig) -> None:
        """Add an adapter's network."""
        self.tokens[adapter_name] = config.tokens
        self.mse_networks[adapter_name] = PseudoTokenMixer(
            self.width,
            self.width,
            self.width,
            tokens=config.tokens,
            audio_hidden=config.audio_hidden,
            video_hidden=config.video_hidden,
            mixed=config.mixed,
            dropout=config.dropout,
        ).to(self.device, torch.float32)

    def active_name(self) -> str | None:
        """The adapter to apply, or ``None`` for the bare backbone."""
        active: Any = self.active_adapters
        return None if self.disable_adapters or not active else str(active[0])

    def forward(self, embeds: Tensor, audio: Tensor, visual: Tensor, text: Tensor) -> Tensor:
        """Pseudo tokens ``[B, n, D]`` of the active adapter, in the type of the embeddings.

        Args:
            embeds: ``[B, L, D]``, media in place.
            audio: bool ``[B, L]``, tokens that carry it.
            visual: likewise.
            text: likewise, of what was spoken.
        """
        name = self.active_name()
        assert name is not None, "it is asked only while an adapter is active"
        with torch.autocast(embeds.device.type, enabled=False):
            given = [value for mask in (audio, visual, text) for value in _first(embeds.float(), mask)]
            found: Tensor = self.mse_networks[name](*given)
        return found.to(embeds.dtype)

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Never possible."""
        raise ValueError(MERGE)

    def unmerge(self) -> None:
        """Nothing is ever merged."""


def _first(embeds: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen tokens of each row first, in their order ``[B, L, D]``, and how many there are.

    As wide as the prompts: to cut behind the longest row would wait for the device.
    """
    order = (~chosen).byte().argsort(dim=1, stable=True)
    return embeds.gather(1, order[..., None].expand_as(embeds)), chosen.sum(1)
