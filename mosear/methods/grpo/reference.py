"""The policy that divergence is measured from: the backbone alone, or the adapter as it was when training began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mosear.backbones.partitioned import whole

if TYPE_CHECKING:
    from mosear.methods.omni_system import OmniSystem


class StartingPoint:
    """A frozen copy of the weights that train, by name; nothing else of the model is held twice.

    Attributes:
        weights: whole tensors on the CPU or on the parameters' device.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)

    @classmethod
    def of(cls, system: OmniSystem) -> StartingPoint:
        """As they are now. All processes call it together."""
        own = trained(system)
        with whole(own.values()):
            return cls({name: parameter.detach().clone() for name, parameter in own.items()})

    @contextmanager
    def restored(self, system: OmniSystem) -> Iterator[None]:
        """The model with these weights, for a block without gradients. Values change in place, so no graph may live."""
        own = trained(system)
        now = StartingPoint.of(system)
        _write(own, self.weights)
        try:
            yield
        finally:
            _write(own, now.weights)


@torch.no_grad()
def _write(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    with whole(parameters.values(), changed=True):
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def trained(system: OmniSystem) -> dict[str, nn.Parameter]:
    """The parameters that train, by name."""
    return {name: own for name, own in system.named_parameters() if own.requires_grad}
