"""mLSTM blocks, and streams of a conversation under gates.

Golden numbers: what the classes of github.com/glam-imperial/GatedxLSTM (commit 7f82ed1, on xlstm 2.0.6) gave in
evaluation mode (the stacks' dropout had to be switched off apart) for the same weights and inputs, one clip at a time,
all made by ``tests/helpers/formula_weights.py``.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mosear.data.clip import Clip
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.mlstm import MLSTMBlock, mlstm
from mosear.fusion.models.gated_xlstm import STREAMS, GatedXLSTM
from mosear.fusion.tasks.label import LabelTask
from tests.helpers.formula_weights import wave
from tests.helpers.fusion_models import (
    assert_depends_on_its_own_clip_alone,
    assert_every_parameter_learns,
    assert_missing_modalities_are_not_read,
    outputs,
    random_batch,
)

LABELS = ["angry", "happy", "sad"]
SMALL: dict[str, Any] = {"hidden": 8, "blocks": 2, "heads": 4, "dropout": 0.0}
WIDTHS = {"audio": 8, "text": 12, "audio-1": 8, "partner_text-1": 12}
LENGTHS = {"audio": [5, 3, 1, 7], "text": [4, 2, 3, 1], "audio-1": [2, 6, 1, 3], "partner_text-1": [1, 4, 2, 2]}
CONFIG = Path(__file__).parents[2] / "conf/model/gated_xlstm.yaml"

PUBLISHED = [[-1.6505786, -0.6804097, 3.1810210, -3.3678381], [-0.9327206, 0.9683868, -0.0411912, -0.1224231]]
PUBLISHED_GATES = [
    [0.0396390, 0.0170276, 0.1449955, 0.8567635, 0.9765718, 0.9246842]
    + [0.3117898, 0.0334867, 0.0468996, 0.5042192, 0.9622452],
    [0.5633565, 0.0446700, 0.0170817, 0.1329446, 0.8471950, 0.9782572]
    + [0.9398110, 0.3749453, 0.0388432, 0.0445553, 0.4554581],
]
PUBLISHED_STACK = [-0.6764383, 0.7690816, 0.9641085, -0.3196974, -0.9436795, 0.2738951]


def model(steps: int | None = None, **settings: Any) -> GatedXLSTM:
    torch.manual_seed(0)
    own = GatedXLSTM(WIDTHS, len(LABELS), **{**SMALL, "steps": steps, **settings})
    with torch.no_grad():
        for parameter in own.parameters():  # fresh gates are all alike
            parameter.add_(0.1 * torch.randn_like(parameter))
    return own


def batch_of_streams(seed: int = 0) -> FeatureBatch:
    return random_batch(WIDTHS, LENGTHS, seed)


def published_order(block: MLSTMBlock) -> list[nn.Parameter]:
    """Parameters of a block in the order of the script that made the golden numbers."""
    return [
        *(block.norm.weight, block.up.weight, block.convolution.weight, block.convolution.bias),
        *(block.q.weight, block.k.weight, block.v.weight),
        *(block.input_gate.weight, block.input_gate.bias, block.forget_gate.weight, block.forget_gate.bias),
        *(block.head_norm, block.skip, block.down.weight),
    ]


# -- literal reference -------------------------------------------------------------------------------------------------


def recurrence(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """One head, ``[T, d]`` and ``[T]``, step by step as the equations have it."""
    d = q.shape[1]
    memory, count, found = torch.zeros(d, d, dtype=q.dtype), torch.zeros(d, dtype=q.dtype), []
    for t in range(len(q)):
        keep, take = 1 / (1 + math.exp(-float(f[t]))), math.exp(float(i[t]))
        memory = keep * memory + take * torch.outer(v[t], k[t]) / math.sqrt(d)
        count = keep * count + take * k[t] / math.sqrt(d)
        found.append(memory @ q[t] / max(abs(float(count @ q[t])), 1.0))
    return torch.stack(found)


def literal_norm(x: Tensor, weight: Tensor) -> Tensor:
    return (x - x.mean()) / ((x - x.mean()).square().mean() + 1e-5).sqrt() * weight


def literal_block(own: MLSTMBlock, x: Tensor) -> Tensor:
    """``[T, W]``."""
    steps, inner = len(x), own.skip.numel()
    up = torch.stack([own.up.weight @ literal_norm(row, own.norm.weight) for row in x])
    u, z = up[:, :inner], up[:, inner:]
    c = own.convolution.bias + torch.zeros(steps, inner)
    for t in range(steps):
        for tap in range(own.kernel_size):
            if t - own.kernel_size + 1 + tap >= 0:
                c[t] = c[t] + own.convolution.weight[:, 0, tap] * u[t - own.kernel_size + 1 + tap]
    c = c * torch.sigmoid(c)

    def diagonal(layer: nn.Conv1d, read: Tensor) -> Tensor:
        weight, size = layer.weight[..., 0], layer.weight.shape[1]
        parts = [read[:, a : a + size] @ weight[a : a + size].T for a in range(0, inner, size)]
        return torch.cat(parts, dim=1)

    q, k, v = diagonal(own.q, c), diagonal(own.k, c), diagonal(own.v, u)
    gates = torch.cat([q, k, v], dim=1)
    i = gates @ own.input_gate.weight.T + own.input_gate.bias
    f = gates @ own.forget_gate.weight.T + own.forget_gate.bias
    d = inner // own.heads
    parts = [slice(h * d, (h + 1) * d) for h in range(own.heads)]
    heads = [recurrence(q[:, p], k[:, p], v[:, p], i[:, h], f[:, h]) for h, p in enumerate(parts)]
    normed = [
        torch.stack([literal_norm(row, own.head_norm[p]) for row in h]) for h, p in zip(heads, parts, strict=True)
    ]
    return x + ((torch.cat(normed, dim=1) + own.skip * c) * z * torch.sigmoid(z)) @ own.down.weight.T


@torch.no_grad()
def literal(own: GatedXLSTM, batch: FeatureBatch, row: int) -> Tensor:
    fused, gates = [], None
    for position, name in enumerate(own.dimensions):
        features = batch.features[name][row, : int(batch.lengths[name][row])]
        mean = features.sum(0) / len(features)
        if gates is None:
            gates = torch.sigmoid(own.gate.weight @ mean + own.gate.bias)
        x = features if own.steps is None else torch.stack(list(mean.chunk(own.steps)))
        first, *blocks, norm = own.stacks[name]
        x = x if isinstance(first, nn.Identity) else x @ first.weight.T + first.bias
        for block in blocks:
            x = literal_block(block, x)
        fused.append(literal_norm(x[-1], norm.weight) * (1.0 if position == 0 else gates[position - 1]))
    return own.head.weight @ torch.cat(fused) + own.head.bias


def test_the_parallel_form_is_the_recurrence() -> None:
    q, k, v = (torch.randn(2, 3, 9, 4, dtype=torch.float64) for _ in range(3))
    i, f = 3 * torch.randn(2, 3, 9, dtype=torch.float64), 2 * torch.randn(2, 3, 9, dtype=torch.float64)
    found = mlstm(q, k, v, i, f)
    for b in range(2):
        for h in range(3):
            expected = recurrence(q[b, h], k[b, h], v[b, h], i[b, h], f[b, h])
            torch.testing.assert_close(found[b, h], expected, rtol=2e-5, atol=1e-9)


def test_large_gates_do_not_overflow() -> None:
    q, k, v = (torch.randn(1, 1, 6, 4) for _ in range(3))
    found = mlstm(q, k, v, torch.full((1, 1, 6), 200.0), torch.full((1, 1, 6), 90.0))
    assert found.isfinite().all() and found.abs().max() > 0


@pytest.mark.parametrize("steps", [None, 4])
def test_a_literal_loop_gives_the_same(steps: int | None) -> None:
    own, batch = model(steps), batch_of_streams()
    for row, found in enumerate(outputs(own, batch)):
        torch.testing.assert_close(found, literal(own, batch, row), rtol=1e-4, atol=1e-5)


# -- figures of the public code ----------------------------------------------------------------------------------------


def test_a_stack_gives_the_published_numbers() -> None:
    own = GatedXLSTM({"audio": 32}, 4, hidden=32, blocks=2, steps=None)
    identity, *blocks, norm = own.stacks["audio"]
    fill_stack([*blocks, norm], first=1)
    with torch.no_grad():
        found = own.stacks["audio"](wave((1, 5, 32), 4.0, 1.0))[0, -1, :6]
    assert isinstance(identity, nn.Identity)
    torch.testing.assert_close(found, torch.tensor(PUBLISHED_STACK), rtol=0, atol=1e-5)


def test_twelve_streams_give_the_published_numbers() -> None:
    # The public code names its streams in the order of STREAMS and puts their vectors together in another one.
    order = [
        f"{name}{when}" for when in ("", "-1", "-2") for name in ("audio", "text", "partner_audio", "partner_text")
    ]
    own = GatedXLSTM(dict.fromkeys(order, 512), 4, streams=order, hidden=32, blocks=2).eval()
    for position, name in enumerate(STREAMS):
        fill_stack(list(own.stacks[name])[1:], first=1 + 29 * position)
    last = [own.gate.weight, own.gate.bias, own.head.weight, own.head.bias]
    with torch.no_grad():
        for phase, parameter in enumerate(last, start=1 + 29 * 12):
            parameter.copy_(wave(parameter.shape, float(phase)))
        own.gate.weight.mul_(0.05)
        features = {
            name: torch.stack([wave((1, 512), clip + 0.1 * s, 1.0) for clip in (1.0, 2.0)])
            for s, name in enumerate(STREAMS)
        }
        found = own(FeatureBatch(features, {name: torch.ones(2, dtype=torch.int64) for name in features}))
    torch.testing.assert_close(found.values, torch.tensor(PUBLISHED), rtol=0, atol=2e-5)
    gates = torch.stack([found.extras[f"gate_{name}"] for name in order[1:]], dim=-1)
    torch.testing.assert_close(gates, torch.tensor(PUBLISHED_GATES), rtol=0, atol=2e-6)


@torch.no_grad()
def fill_stack(layers: list[Any], first: int) -> None:
    """Waves for a stack's parameters; norms get 1 + wave, which is what they multiply by in the xlstm package."""
    *blocks, norm = layers
    parameters = [parameter for block in blocks for parameter in published_order(block)] + [norm.weight]
    norms = {id(norm.weight)} | {id(p) for block in blocks for p in (block.norm.weight, block.head_norm)}
    for phase, parameter in enumerate(parameters, start=first):
        parameter.copy_(wave(parameter.shape, float(phase)) + (1.0 if id(parameter) in norms else 0.0))


def test_the_published_sizes_give_the_published_number_of_parameters() -> None:
    config = OmegaConf.to_container(OmegaConf.load(CONFIG))
    assert isinstance(config, dict) and config.pop("_target_") == "mosear.fusion.models.gated_xlstm.GatedXLSTM"
    assert config["streams"] == list(STREAMS)
    with torch.device("meta"):
        own = GatedXLSTM(dict.fromkeys(STREAMS, 512), 4, **config)
    assert sum(p.numel() for p in own.parameters()) == 12 * 12_956_736 + (512 + 1) * 11 + (12 * 512 + 1) * 4


# -- streams and gates -------------------------------------------------------------------------------------------------


def test_streams_without_features_are_left_out() -> None:
    own = GatedXLSTM({"video": 8, "text": 16, "audio": 32}, 3, **SMALL)
    assert list(own.dimensions) == ["audio", "text"] and own.gated == ["text"]
    alone = GatedXLSTM({"text": 16}, 3, **SMALL)
    assert alone.gate is None and alone(random_batch({"text": 16}, {"text": [2, 3]})).values.shape == (2, 3)


def test_the_gate_of_a_missing_stream_is_not_read() -> None:
    own, batch = model().eval(), batch_of_streams()
    gone = batch.without(["text"], torch.tensor([True, False, False, False]))
    found = own(gone)
    assert found.extras["gate_text"][0] == 0.0 and (found.extras["gate_text"][1:] > 0).all()
    with torch.no_grad():
        own.gate.bias[0] += 5.0
    changed = own(gone).values
    torch.testing.assert_close(changed[0], found.values[0], rtol=0, atol=0)
    assert not torch.equal(changed[1], found.values[1])


# -- properties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [None, 4])
def test_a_clip_is_judged_on_its_own(steps: int | None) -> None:
    assert_depends_on_its_own_clip_alone(model(steps), batch_of_streams())
    own = model(steps)
    batch = batch_of_streams()
    for name in own.dimensions:
        gone = batch.without([name])
        noise = FeatureBatch({**gone.features, name: torch.full_like(gone.features[name], 3.0)}, gone.lengths)
        for found, expected in zip(outputs(own, noise), outputs(own, gone), strict=True):
            torch.testing.assert_close(found, expected)
    for found in outputs(own, batch.without(list(own.dimensions))):
        assert found.isfinite().all()


def test_missing_modalities_are_not_read() -> None:
    assert_missing_modalities_are_not_read(GatedXLSTM({"audio": 10, "text": 8}, 3, **SMALL, steps=2))


@pytest.mark.parametrize("steps", [None, 4])
def test_every_weight_learns(steps: int | None) -> None:
    own, batch = GatedXLSTM(WIDTHS, len(LABELS), **SMALL, steps=steps).train(), batch_of_streams()
    clips = [Clip(id=str(i), text="x", label=LABELS[i % 3]) for i in range(len(batch))]
    task = LabelTask(LABELS)
    whole = FeatureBatch(batch.features, batch.lengths, clips, task.targets(clips))
    assert_every_parameter_learns(own, own.loss(own(whole), whole, task)["loss"])


@pytest.mark.parametrize(
    ("dimensions", "settings", "message"),
    [
        ({"video": 16}, {}, "None of the streams"),
        (WIDTHS, {"streams": ["audio", "audio"]}, "names a modality twice"),
        (WIDTHS, {"steps": 16}, "into which the 8 numbers of audio cannot be cut"),
        (WIDTHS, {"steps": 0}, "steps is 0"),
        (WIDTHS, {"steps": 4, "heads": 3}, "neither 3 heads"),
    ],
)
def test_settings_that_cannot_work_are_told(dimensions: dict[str, int], settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatedXLSTM(dimensions, 3, **{**SMALL, **settings})
