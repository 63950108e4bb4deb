"""Weights that ZeRO-3 has spread over the processes: whether they are, their true shapes, and how to see them whole.

While DeepSpeed's settings are alive (transformers holds a weak reference to them), ``from_pretrained`` hands each
process its part of every weight. Modules gather their own when they run; whoever reads or writes weights otherwise asks
here. Gathering is a collective: all processes must do it together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    import torch

    from mosear.backbones.families.base import OmniFamily


def weights_are_partitioned() -> bool:
    """Whether this run spreads weights over its processes."""
    if "deepspeed" not in sys.modules:  # it is not in use, and importing it takes seconds
        return False
    from transformers.integrations import is_deepspeed_zero3_enabled

    return bool(is_deepspeed_zero3_enabled())


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """The whole parameter's shape."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


@contextmanager
def whole(parameters: Iterable[nn.Parameter], *, changed: bool = False) -> Iterator[None]:
    """Gathers partitioned parameters for a block; those that are whole already are left alone.

    Args:
        parameters: the same on every process.
        changed: the block writes them; what the first process wrote is kept.
    """
    spread = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not spread:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(spread, modifier_rank=0 if changed else None):
        yield


def take_out_towers(model: nn.Module, family: OmniFamily) -> None:
    """Make the towers whole on every process, and hide them from DeepSpeed.

    Processes gather weights in step, and a tower runs as often as its process has media to encode: with one clip
    without video the processes would wait for one another for ever. A tower is small beside the decoder, so it stays
    out: reachable by its name, but no part of the module tree, so no engine finds it.
    """
    for path in family.tower_paths:
        parent_path, _, name = path.rpartition(".")
        parent, tower = model.get_submodule(parent_path), model.get_submodule(path)
        for module in tower.modules():
            with whole(module.parameters(recurse=False)):
                copies = {key: value.detach().clone() for key, value in module.named_parameters(recurse=False)}
            for key, value in copies.items():
                module._parameters[key] = nn.Parameter(value, requires_grad=False)
        del parent._modules[name]
        parent.__dict__[name] = tower


def move_rest(model: nn.Module, family: OmniFamily, device: torch.device) -> None:
    """Move to ``device`` what DeepSpeed has not placed there: the towers and all buffers."""
    for path in family.tower_paths:
        model.get_submodule(path).to(device)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
