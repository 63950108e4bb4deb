"""What belongs to one forward pass of a steered language model. It travels through the arguments of its layers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mosear.steering.policies.base import AttentionView, Edit, Policy, modality_mass
from mosear.steering.rows import Keys, SteeredRows
from mosear.steering.stats import row_sums

if TYPE_CHECKING:
    from mosear.steering.attention import ExactRows, Sight
    from mosear.steering.heads import HeadsReading


@dataclass
class SteeredPass:
    """One pass. What is the same in all of its layers is worked out in the first one.

    Attributes:
        policy: what to do with the rows.
        rows: which these are.
        roles: ``[B, L]`` :class:`TokenRole` of the first L keys; the others are answer tokens.
        state: the policy's decision about these sequences, ``[B, ...]``.
        known_behind: the state counts in the layers behind this one.
        note: takes the sums of a layer (``layer, sums, counts``); ``None`` = no sums are taken.
        reading: collects evidence in this pass's attention.
        counted: number of the recorded prompts; ``None`` if they are not recorded.
    """

    policy: Policy
    rows: SteeredRows
    roles: Tensor
    state: Tensor | None = None
    known_behind: int = -1
    note: Callable[[int, Tensor, Tensor], None] | None = None
    reading: HeadsReading | None = None
    counted: int | None = None
    _keys: dict[torch.device, Keys] = field(default_factory=dict)
    _rows: dict[torch.device, SteeredRows] = field(default_factory=dict)
    _parts: dict[tuple[torch.device, int], list[SteeredRows]] = field(default_factory=dict)
    _sights: dict[Any, tuple[Tensor | None, Sight]] = field(default_factory=dict)

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
        with full_precision(probabilities.device):
            view = AttentionView.of(probabilities, keys, rows.answer, layer=layer, state=state)
            edited, touched = self.policy.edit(probabilities, view)
            if self.note is not None:
                after = view.mass if edited is probabilities else modality_mass(edited, keys)
                self.note(layer, row_sums(view.mass, after, touched, rows.valid), rows.counts)
        return edited, touched

    def rows_on(self, device: torch.device) -> SteeredRows:
        """The rows on a device."""
        if device not in self._rows:
            self._rows[device] = self.rows.to(device)
        return self._rows[device]

    def parts(self, rows: SteeredRows, size: int) -> list[SteeredRows]:
        """The rows, so many at a time."""
        key = (rows.index.device, size)
        if key not in self._parts:
            self._parts[key] = [rows.part(start, start + size) for start in range(0, rows.count, size)]
        return self._parts[key]

    def sight(self, exact: ExactRows, part: SteeredRows) -> Sight:
        """What the rows of a part see: layers with the same mask and window share it."""
        key = (id(exact.mask), id(part), exact.window, exact.causal_offset, exact.key.shape[2])
        if key not in self._sights:  # a mask that is kept here keeps its id
            self._sights[key] = (exact.mask, exact.sight(part.places))
        return self._sights[key][1]

    def keys(self, device: torch.device, count: int) -> Keys:
        """On a device; the same in every layer."""
        if device not in self._keys:
            self._keys[device] = Keys.of(self.roles.to(device), count)
        return self._keys[device]


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Without autocast. (To enter it where none is on costs as much as a small kernel.)"""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()
