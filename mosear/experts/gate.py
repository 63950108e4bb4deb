"""The gate: how much each group of experts may say, per decoder layer and sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mosear.experts.config import MoSEConfig
from mosear.experts.layer import LayerSlot, LowRank, MoSELayer
from mosear.experts.passes import GROUPS

EPSILON = 1e-6


class MoSEGate(nn.Module, MoSELayer):
    """Weights of the three groups for one decoder layer.

        w = softmax(W_g [mean of visual prompt tokens ; mean of the other prompt tokens])

    over the layer's input hidden states, in fp32. A sample without visual tokens has a zero in place of that mean.
    ``W_g`` starts at zero: every weight is 1/3, and the factor 3 in the layer makes that the plain sum of the groups.

    Args:
        index: of the decoder layer.
        hidden_size: D.
        device: where the decoder layer lives.
    """

    adapter_layer_names = ("mose_W",)
    other_param_names = ("normalised", "settings")

    def __init__(self, index: int, hidden_size: int, device: torch.device) -> None:
        super().__init__()
        self.index, self.hidden_size, self.device = index, hidden_size, device
        self.in_features, self.out_features = 2 * hidden_size, len(GROUPS)  # PEFT's layers have both
        self.mose_W = nn.ParameterDict()
        self.normalised: dict[str, bool] = {}
        self.settings: dict[str, LowRank] = {}
        self.slot = LayerSlot()

    def update_layer(self, adapter_name: str, config: MoSEConfig) -> None:
        """Add an adapter's gate; a uniform one has no parameters."""
        self.normalised[adapter_name], self.settings[adapter_name] = config.gate_norm, LowRank.of(config)
        if config.gate == "learned":
            self.mose_W[adapter_name] = nn.Parameter(
                torch.zeros(len(GROUPS), 2 * self.hidden_size, device=self.device, dtype=torch.float32)
            )

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """PEFT asks for it after loading with ``low_cpu_mem_usage``; a gate has no base layer, and stays in fp32."""
        if adapter_name in self.mose_W and not (weight := self.mose_W[adapter_name]).is_meta:
            weight.data = weight.data.to(device or self.device, torch.float32)

    def forward(self, hidden: Tensor, pooling: Tensor) -> Tensor:
        """Gate weights.

        Args:
            hidden: ``[B, L, D]``.
            pooling: ``[B, 2, L]``, each row the weights of a mean over visual (0) or other (1) prompt tokens.

        Returns:
            fp32 ``[B, 3]`` in the simplex.
        """
        name = self.active_name()
        if name is None or name not in self.mose_W:
            return hidden.new_full((len(hidden), len(GROUPS)), 1 / len(GROUPS), dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            means = pooling.to(hidden.device) @ hidden.float()
            if self.normalised[name]:
                means = means * (means.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
            return F.linear(means.flatten(1), self.mose_W[name].float()).softmax(-1)
