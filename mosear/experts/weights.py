"""The tensors of a saved adapter against the adapter in the model: all of them, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mosear.backbones.partitioned import shape_of

PREFIX = "base_model.model."
REFUSED = (
    "These are not the weights of the MoSE adapter {adapter!r} that adapter_config.json describes on this backbone: "
    "{told}. None of them was loaded. Copy the adapter again, with both files, and load it on the backbone that it was "
    "trained on."
)


def check_weights(model: nn.Module, adapter: str, tensors: Mapping[str, Tensor], mark: str) -> None:
    """Refuse weights that PEFT would load in part, or into the backbone.

    Args:
        model: with the adapter in place.
        adapter: its name.
        tensors: by the names of the model's parameters.
        mark: how names of the method's parameters begin.

    Raises:
        ValueError: if parameters get no tensor, if tensors belong to no parameter of the adapter or have another shape,
            and if some are not finite.
    """
    wanted = {
        name.removeprefix(PREFIX): shape_of(parameter)
        for name, parameter in model.named_parameters()
        if name.endswith(f".{adapter}") and name.split(".")[-2].startswith(mark)
    }
    given = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    told = []
    if missing := wanted.keys() - given.keys():
        told.append(f"{len(missing)} of {len(wanted)} parameters are not in the file (the first: {min(missing)})")
    if extra := given.keys() - wanted.keys():
        told.append(f"{len(extra)} of {len(given)} tensors belong to no parameter of it (the first: {min(extra)})")
    both = sorted(wanted.keys() & given.keys())
    if other := [name for name in both if given[name].shape != wanted[name]]:
        shapes = f"{other[0]} is {tuple(given[other[0]].shape)}, not {tuple(wanted[other[0]])}"
        told.append(f"{len(other)} of {len(given)} tensors have another shape (the first: {shapes})")
    if broken := [name for name in both if not bool(torch.isfinite(given[name]).all())]:
        told.append(f"{len(broken)} of {len(given)} tensors hold NaN or infinity (the first: {broken[0]})")
    if told:
        raise ValueError(REFUSED.format(adapter=adapter, told="; ".join(told)))
