"""What belongs to one forward pass of a steered language model. It travels through the arguments of its layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mosear.steering.policies.base import AttentionView, Edit, Policy, modality_mass
from mosear.steering.rows import Keys, SteeredRows
from mosear.steering.stats import row_sums

if TYPE_CHECKING:
    from mosear.steering.attention import ExactRows
    from mosear.steering.heads import HeadsReading


@dataclass
class SteeredPass:
    """One pass.

    Attributes:
        policy: what to do with the rows.
        rows: which these are.
        roles: ``[B, L]`` :class:`TokenRole` of the first L keys; the others are answer tokens.
        state: the policy's decision about these sequences, ``[B, ...]``.
        known_behind: the state counts in the layers behind this one.
        note: takes the sums of a layer (``layer, sums, counts``); ``None`` = nobody counts.
        reading: collects evidence in this pass's attention.
    """

    policy: Policy
    rows: SteeredRows
    roles: Tensor
    state: Tensor | None = None
    known_behind: int = -1
    note: Callable[[int, Tensor, Tensor], None] | None = None
    reading: HeadsReading | None = None
    _keys: dict[torch.device, Keys] = field(default_factory=dict)

    def state_in(self, layer: int) -> Tensor | None:
        """The state, as far as this layer may know it."""
        return self.state if layer > self.known_behind else None

    def acts_in(self, layer: int) -> bool:
        """Must the rows be computed exactly in this layer?"""
        if not self.rows.count:
            return False
        return self.note is not None or (self.policy.acts_in(layer) and not self.policy.idle(self.state_in(layer)))

    def reads_in(self, layer: int) -> bool:
        """Is this layer's attention evidence?"""
        return self.reading is not None and layer in self.reading.layers

    def read(self, layer: int, module: nn.Module, exact: ExactRows) -> None:
        """Collect evidence; the last layer that has any settles the state."""
        assert self.reading is not None
        decided = self.reading.collect(layer, module, exact)
        if decided is not None:
            self.state = decided

    def edit(self, layer: int, probabilities: Tensor, rows: SteeredRows) -> Edit:
        """Policy and statistics for ``probabilities [B, H, T, K]`` of ``rows``."""
        keys = self.keys(probabilities.device, probabilities.shape[-1])
        state = self.state_in(layer)
        state = None if state is None else state.to(probabilities.device)
        with torch.autocast(probabilities.device.type, enabled=False):
            view = AttentionView.of(probabilities, keys, rows.answer, layer=layer, state=state)
            edited, touched = self.policy.edit(probabilities, view)
            if self.note is not None:
                after = modality_mass(edited, keys)
                self.note(layer, *row_sums(view.mass, after, touched, rows.valid))
        return edited, touched

    def keys(self, device: torch.device, count: int) -> Keys:
        """On a device; the same in every layer."""
        if device not in self._keys:
            self._keys[device] = Keys.of(self.roles.to(device), count)
        return self._keys[device]
