"""TFN: equations as loops, figures of MMSA's code."""

import math

import pytest
import torch

from mosear.data.clip import Clip
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.models.tfn import TFN
from mosear.fusion.tasks.label import LabelTask
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
from tests.helpers.literal import Row, affine, lstm, mean_of, numbers, relu, sigmoid

LABELS = ["angry", "happy", "sad"]
SMALL = {"text_hidden": 4, "text_out": 3, "audio_hidden": 2, "video_hidden": 4, "fusion_hidden": 5}
PUBLISHED = {"audio": 74, "video": 35, "text": 768}


def model(count: int = 3, **settings) -> TFN:
    torch.manual_seed(0)
    net = TFN(DIMENSIONS, count, **{**SMALL, **settings})
    for _ in range(5):
        net.train()(random_batch(seed=5))  # running means
    return net


def literal(net: TFN, batch: FeatureBatch, row: int) -> Row:
    parts = []
    for name, subnet in net.subnets.items():
        own = numbers(batch.features[name][row, : int(batch.lengths[name][row])])
        z, norm = mean_of(own, [1 / len(own)] * len(own)), subnet.norm
        z = [
            (v - m) / math.sqrt(s + norm.eps) * w + b
            for v, m, s, w, b in zip(
                z,
                numbers(norm.running_mean),
                numbers(norm.running_var),
                numbers(norm.weight),
                numbers(norm.bias),
                strict=True,
            )
        ]
        for layer in subnet.layers:
            z = relu(affine(layer, z))
        parts.append([1.0, *z])
    own = numbers(batch.features["text"][row, : int(batch.lengths["text"][row])])
    parts.append([1.0, *affine(net.text.out, lstm(net.text.lstm, own)[1])])
    fused = [a * b * c for a in parts[0] for b in parts[1] for c in parts[2]]
    y = affine(net.last, relu(affine(net.second, relu(affine(net.first, fused)))))
    return [-3 + 6 * sigmoid(y[0])] if len(y) == 1 else y


@pytest.mark.parametrize("count", [1, 3])
def test_a_literal_loop_gives_the_same(count: int) -> None:
    net, batch = model(count), random_batch()
    for row, found in enumerate(outputs(net, batch)):
        torch.testing.assert_close(found, torch.tensor(literal(net, batch, row)), rtol=1e-4, atol=1e-5)


# From github.com/thuiar/MMSA, src/MMSA/models/singleTask/TFN.py in evaluation mode, with these weights and features.
PUBLIC = {
    1: [[1.5905647], [1.3017740]],
    6: [
        [1.1808137, -0.4414536, 0.2622989, 0.7983007, 0.1976163, 0.1018574],
        [0.9294434, -0.1528909, 0.1199908, 0.6356222, 0.1028701, 0.0935155],
    ],
}


@pytest.mark.parametrize(("count", "parameters"), [(1, 5_042_539), (6, 5_042_624)])
def test_mmsa_gives_the_same_figures(count: int, parameters: int) -> None:
    net = TFN(PUBLISHED, count).eval()
    fill_by_formula(net)
    assert sum(p.numel() for p in net.parameters()) == parameters  # as in MMSA
    with torch.no_grad():
        output = net(formula_batch(PUBLISHED, {name: [5, 5] for name in PUBLISHED}))
    torch.testing.assert_close(output.values, torch.tensor(PUBLIC[count]), rtol=0, atol=5e-6)
    torch.testing.assert_close(
        output.extras["fused"].abs().sum(1), torch.tensor([18600.6836, 18289.5703]), rtol=1e-5, atol=0
    )


def test_a_score_keeps_its_range() -> None:
    net, batch = model(1, score_range=[-1.0, 1.0]), random_batch()
    with torch.no_grad():
        net.last.bias.fill_(3.0)
    bounded = net.eval()(batch).values
    assert bounded.max() < 1 and bounded.min() > -1
    net.score_range = None
    torch.testing.assert_close(net(batch).values.sigmoid() * 2 - 1, bounded)


def test_a_clip_is_judged_on_its_own_with_any_modalities() -> None:
    assert_depends_on_its_own_clip_alone(model())
    assert_missing_modalities_are_not_read(model())
    for dimensions in ({"face": 5, "audio": 4}, {"text": 6}):
        lengths = {name: [3, 1, 4, 2] for name in dimensions}
        assert_depends_on_its_own_clip_alone(TFN(dimensions, 2, **SMALL), random_batch(dimensions, lengths))


def test_running_means_leave_out_clips_without_the_modality() -> None:
    batch = random_batch().without(["audio"], torch.tensor([True, False, False, False]))
    net = TFN(DIMENSIONS, 3, **SMALL).train()
    net(batch)
    own = torch.stack([batch.features["audio"][row, : int(batch.lengths["audio"][row])].mean(0) for row in (1, 2, 3)])
    torch.testing.assert_close(net.subnets["audio"].norm.running_mean, 0.1 * own.mean(0))
    one = TFN(DIMENSIONS, 3, **SMALL).train()
    one(batch.without(["audio"], torch.tensor([True, True, True, False])))  # one clip is left
    assert not one.subnets["audio"].norm.running_mean.any()


def test_every_weight_learns() -> None:
    net = model(text_out=16, audio_hidden=16, video_hidden=16, fusion_hidden=16).train()
    batch, task = random_batch(), LabelTask(LABELS)
    batch.targets.update(task.targets([Clip(id=str(i), text="x", label=LABELS[i % 3]) for i in range(4)]))
    assert_every_parameter_learns(net, net.loss(net(batch), batch, task)["loss"])


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"score_range=\[3.0, -3.0\] must be \[lowest, highest\]"):
        model(score_range=[3.0, -3.0])
    with pytest.raises(ValueError, match="text_out=0 must be at least 1"):
        model(text_out=0)
