"""GRJCA: equations as loops, figures of the public code of its family."""

import math

import pytest
import torch

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.ccc import ccc_loss
from mosear.fusion.models.grjca import GRJCA, ResidualBiLSTM
from mosear.fusion.sequences import resampled, step_mask
from tests.helpers.fusion_models import (
    DIMENSIONS,
    assert_depends_on_its_own_clip_alone,
    assert_every_parameter_learns,
    assert_missing_modalities_are_not_read,
    fill_by_formula,
    formula_batch,
    outputs,
    random_batch,
)
from tests.helpers.literal import Row, Rows, affine, lstm, mean_of, numbers, plus, relu, softmax, unit

SMALL = {"width": 8, "lstm_layers": 2, "head": 6}


def model(outputs: int = 2, **settings) -> GRJCA:
    torch.manual_seed(0)
    net = GRJCA(DIMENSIONS, outputs, **{"over_time": True, **SMALL, **settings})
    with torch.no_grad():  # biases that matter
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.3, 0.3)
    return net


def bilstm(net: ResidualBiLSTM, rows: Rows) -> Rows:
    states = numbers(net.start)
    read, _ = lstm(net.lstm, rows, (states[: len(states) // 2], states[len(states) // 2 :]))
    return [unit(affine(net.out, x + r)) for x, r in zip(rows, read, strict=True)]


def literal_attention(layer: torch.nn.Module, features: dict[str, Rows]) -> dict[str, Rows]:
    steps = range(len(next(iter(features.values()))))
    joint = [affine(layer.query, [v for rows in features.values() for v in rows[t]]) for t in steps]
    found = {}
    for name, rows in features.items():
        keys = [affine(layer.keys[name], x) for x in rows]
        c = [
            [
                math.tanh(sum(keys[t][i] * joint[t][j] for t in steps) / math.sqrt(len(joint[0])))
                for j in range(len(joint[0]))
            ]
            for i in range(len(keys[0]))
        ]
        found[name] = []
        for x in rows:
            h = relu([math.tanh(v) for v in mean_of(c, affine(layer.values[name], x))])
            found[name].append(plus(x, relu(affine(layer.outs[name], h))))
    return found


def literal_gates(net: GRJCA, name: str, start: Row, stages: list[Row]) -> Row:
    gates = net.gates[name]
    if not gates.gates:
        return stages[-1]
    gated = []
    for gate, attended in zip(gates.gates, stages[-len(gates.gates) :], strict=True):
        g = softmax([v / 0.1 for v in affine(gate, attended)])
        gated.append(relu([g[0] * a + g[1] * b for a, b in zip(start, attended, strict=True)]))
    if gates.stage is None:
        return gated[0]
    return mean_of(gated, softmax([affine(gates.stage, a)[0] / 0.1 for a in gated]))


def literal(net: GRJCA, batch: FeatureBatch, row: int) -> Rows | Row:
    count = max(int(batch.lengths[name][row]) for name in DIMENSIONS)
    start = {}
    for name in DIMENSIONS:
        one = batch.lengths[name][row : row + 1]
        if not int(one):
            start[name] = [[0.0] * 8] * count
            continue
        own = numbers(resampled(batch.features[name][row : row + 1], one, torch.tensor([count]))[0])
        if DIMENSIONS[name] != 8:
            own = [affine(net.projections[name], x) for x in own]
        start[name] = bilstm(net.encoders[name], [unit(x) for x in own])
    stages = [start]
    for layer in net.attention:
        stages.append(literal_attention(layer, stages[-1]))
        stages[-1] |= {name: start[name] for name in DIMENSIONS if not int(batch.lengths[name][row])}
    joint = []
    for t in range(count):
        joint.append([])
        for name in DIMENSIONS:
            joint[t] += literal_gates(net, name, start[name][t], [stage[name][t] for stage in stages[1:]])
    fused = bilstm(net.joint, joint)
    if not net.over_time:
        fused = [mean_of(fused, [1 / count] * count)]
    y = [[v for head in net.heads for v in affine(head[3], relu(affine(head[0], x)))] for x in fused]
    return y if net.over_time else y[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"gating": "stages"},
        {"gating": "stages", "iterations": 1},
        {"gating": "last"},
        {"gating": "none"},
        {"over_time": False, "outputs": 3},
    ],
    ids=str,
)
def test_a_literal_loop_gives_the_same(settings: dict) -> None:
    net = model(**settings)
    batch = random_batch().without(["audio"], torch.tensor([False, True, False, False]))
    for row, found in enumerate(outputs(net, batch)):
        torch.testing.assert_close(found, torch.tensor(literal(net, batch, row)), rtol=1e-4, atol=1e-5)


# Valence and arousal of the public code, of clip 0 at steps 0, 7 and 15 and of clip 1 at step 15, with these weights
# and features: github.com/praveena2j/RecurrentJointAttentionwithLSTMs and .../Dynamic-CrossAttention,
# models/orig_cam.py (CAM in evaluation mode) without the attention over regions; W_k is the identity in both.
PUBLIC = {
    "none": [[1.4631863, 0.8211349], [1.4642695, 0.8219818], [1.4682422, 0.8213760], [1.4675649, 0.8213516]],
    "last": [[1.2031343, 1.6314403], [1.1986766, 1.6292007], [1.2001214, 1.6292046], [1.2010162, 1.6291138]],
}


@pytest.mark.parametrize(("gating", "iterations"), [("none", 1), ("last", 2)])
def test_the_public_code_gives_the_same_figures(gating: str, iterations: int) -> None:
    dimensions = {"video": 512, "audio": 512}
    net = GRJCA(dimensions, 2, over_time=True, gating=gating, iterations=iterations).eval()
    fill_by_formula(net)
    with torch.no_grad():
        for layer in net.attention:
            for key in layer.keys.values():
                key.weight.copy_(torch.eye(512))
                key.bias.zero_()
        values = net(formula_batch(dimensions, {name: [16, 16] for name in dimensions})).values
    found = torch.stack([values[0, 0], values[0, 7], values[0, 15], values[1, 15]])
    torch.testing.assert_close(found, torch.tensor(PUBLIC[gating]), rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("gating", "iterations", "public", "count"),
    [("none", 1, 15_947_859, 15_634_434), ("last", 2, 18_574_967, 18_786_310), ("stages", 2, None, 18_789_388)],
)
def test_the_published_model_has_its_parameters(gating: str, iterations: int, public: int | None, count: int) -> None:
    with torch.device("meta"):
        net = GRJCA({"video": 512, "audio": 512}, 2, over_time=True, gating=gating, iterations=iterations)
    assert sum(p.numel() for p in net.parameters()) == count
    if public:
        regions, over_time, over_features = 838_193, 16 * 16 + 16, 512 * 512 + 512
        assert count == public - regions + 2 * iterations * (over_features - over_time)


def test_every_clip_has_the_steps_of_its_longest_modality() -> None:
    batch = random_batch()
    found = model().eval()(batch)
    assert found.steps.tolist() == [9, 4, 6, 7] and found.values.shape == (4, 9, 2)
    assert model(steps=5).eval()(batch).steps.tolist() == [5] * 4
    nothing = model().eval()(batch.without(list(DIMENSIONS)))
    assert nothing.steps.tolist() == [1] * 4 and nothing.values.isfinite().all()


def test_a_clip_is_judged_on_its_own() -> None:
    for settings in ({}, {"gating": "none"}, {"over_time": False, "outputs": 3}, {"steps": 4}):
        assert_depends_on_its_own_clip_alone(model(**settings))
        assert_missing_modalities_are_not_read(model(**settings))


@pytest.mark.parametrize("gating", ["stages", "last", "none"])
def test_every_weight_learns(gating: str) -> None:
    net, batch = model(width=32, head=32, gating=gating, gate_temperature=1.0).train(), random_batch()
    found = net(batch)
    truth = torch.randn_like(found.values)
    loss = ccc_loss(found.values, truth, step_mask(found.steps, truth.shape[1]))
    assert_every_parameter_learns(net, loss)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="gating='soft' must be one of stages, last, none; gate_temperature=0"):
        model(gating="soft", gate_temperature=0)
    with pytest.raises(ValueError, match="width=7 must be even"):
        model(width=7)
