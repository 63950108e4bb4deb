"""Properties that every fusion model must have, on random features."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel
from mosear.fusion.sequences import without_padding

DIMENSIONS = {"video": 12, "audio": 10, "text": 8}
LENGTHS = {"video": [5, 3, 1, 7], "audio": [9, 4, 6, 2], "text": [4, 2, 3, 1]}


def random_batch(
    dimensions: Mapping[str, int] = DIMENSIONS, lengths: Mapping[str, Sequence[int]] = LENGTHS, seed: int = 0
) -> FeatureBatch:
    generator = torch.Generator().manual_seed(seed)
    features, counts = {}, {}
    for name, size in dimensions.items():
        counts[name] = torch.tensor(lengths[name])
        block = torch.randn(len(counts[name]), max(1, int(counts[name].max())), size, generator=generator)
        behind = torch.arange(block.shape[1])[None] >= counts[name][:, None]
        features[name] = block.masked_fill(behind[..., None], 0.0)
    return FeatureBatch(features, counts)


def one_row(batch: FeatureBatch, row: int) -> FeatureBatch:
    """A clip on its own, without padding."""
    lengths = {name: counts[row : row + 1] for name, counts in batch.lengths.items()}
    features = {name: values[row : row + 1, : max(1, int(lengths[name]))] for name, values in batch.features.items()}
    return FeatureBatch(features, lengths)


@torch.no_grad()
def outputs(model: FusionModel, batch: FeatureBatch) -> list[Tensor]:
    """Of each clip, its meaningful steps alone."""
    found = model.eval()(batch)
    if found.steps is None:
        return list(found.values)
    return [values[: int(count)] for values, count in zip(found.values, found.steps, strict=True)]


def assert_depends_on_its_own_clip_alone(model: FusionModel, batch: FeatureBatch | None = None) -> None:
    """Not on batch mates, and not on padding, whatever stands there."""
    batch = random_batch(model.dimensions) if batch is None else batch
    together = outputs(model, batch)
    for row, found in enumerate(together):
        torch.testing.assert_close(outputs(model, one_row(batch, row))[0], found, rtol=1e-4, atol=1e-5)
    noisy = {
        name: torch.where(batch.mask(name)[..., None], values, torch.full_like(values, 7.0))
        for name, values in batch.features.items()
    }
    longer = {name: torch.cat([values, torch.full_like(values, -5.0)], dim=1) for name, values in noisy.items()}
    for changed in (noisy, longer):
        for found, expected in zip(outputs(model, replace(batch, features=changed)), together, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def assert_missing_modalities_are_not_read(model: FusionModel) -> None:
    """A modality of length 0 does not matter, the others do; without any the output is finite."""
    batch = random_batch(model.dimensions)
    for name in model.dimensions:
        gone = batch.without([name])
        noise = {**gone.features, name: torch.full_like(gone.features[name], 3.0)}
        for found, expected in zip(outputs(model, replace(gone, features=noise)), outputs(model, gone), strict=True):
            torch.testing.assert_close(found, expected)
        for row in range(len(batch)):  # beside clips that have it
            mixed = batch.without([name], torch.arange(len(batch)) == row)
            torch.testing.assert_close(outputs(model, mixed)[row], outputs(model, gone)[row], rtol=1e-4, atol=1e-5)
    for found in outputs(model, batch.without(list(model.dimensions))):
        assert found.isfinite().all()


def assert_every_parameter_learns(model: FusionModel, loss: Tensor, *, except_for: Sequence[str] = ()) -> None:
    """No weight is dead."""
    loss.backward()
    dead = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert [name for name in dead if not name.startswith(tuple(except_for) or ("-",))] == []


def formula(shape: Sequence[int], phase: float) -> Tensor:
    """Numbers that any program can make again: cos(k^2 / 100 + phase) of the flat index k."""
    k = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return torch.cos(k * k / 100 + phase).reshape(*shape).float()


@torch.no_grad()
def fill_by_formula(model: nn.Module, gain: float = 2.0) -> None:
    """Every parameter, in the order of ``named_parameters``: matrices about as large as they are after training."""
    for phase, (_, parameter) in enumerate(model.named_parameters()):
        scale = gain / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.5
        parameter.copy_(scale * formula(parameter.shape, phase))


def formula_batch(dimensions: Mapping[str, int], lengths: Mapping[str, Sequence[int]]) -> FeatureBatch:
    """Features by formula, zeros behind the lengths."""
    counts = {name: torch.tensor(lengths[name]) for name in dimensions}
    features = {
        name: without_padding(formula((len(counts[name]), int(counts[name].max()), size), phase), counts[name])
        for phase, (name, size) in enumerate(dimensions.items())
    }
    return FeatureBatch(features, counts)
