"""MulT: equations as loops, figures of MMSA's code."""

import math

import pytest
import torch

from mosear.data.clip import Clip
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.models.mult import MulT, Transformer
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
from tests.helpers.literal import Row, Rows, affine, attention, dot, layer_norm, numbers, plus, relu

LABELS = ["angry", "happy", "sad"]
SMALL = {"width": 8, "heads": 2, "layers": 2}
PUBLISHED = {"text": 768, "audio": 74, "video": 35}


def model(**settings) -> MulT:
    torch.manual_seed(0)
    net = MulT(DIMENSIONS, len(LABELS), **{**SMALL, **settings})
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))
    return net


def literal_transformer(net: Transformer, target: Rows, source: Rows, *, itself: bool) -> Rows:
    scale, offset = math.sqrt(len(target[0])), abs(len(source) - len(target))
    x, keys = [[scale * v for v in row] for row in target], [[scale * v for v in row] for row in source]
    for layer in net.layers:
        read = x if itself else keys
        queries, values = ([layer_norm(layer.norm, row) for row in rows] for rows in (x, read))
        attended = attention(layer.attention, queries, values, lambda i, j: not net.causal or j <= i + offset)
        x = [plus(row, a) for row, a in zip(x, attended, strict=True)]
        x = [
            plus(row, affine(layer.second, relu(affine(layer.first, layer_norm(layer.feed_forward_norm, row)))))
            for row in x
        ]
    return [layer_norm(net.norm, row) for row in x]


def literal(net: MulT, batch: FeatureBatch, row: int) -> Row:
    embedded = {}
    for name, size in DIMENSIONS.items():
        if not int(batch.lengths[name][row]):
            embedded[name] = [[0.0] * 8]
            continue
        own = numbers(batch.features[name][row, : int(batch.lengths[name][row])])
        if size != 8:
            kernel = numbers(net.convolutions[name].weight)  # [d][D][k]
            length = len(kernel[0][0])
            own += [[0.0] * size] * (length - len(own))
            own = [
                [sum(dot([part[k] for part in out], own[t + k]) for k in range(length)) for out in kernel]
                for t in range(len(own) - length + 1)
            ]
        embedded[name] = own
    h: Row = []
    for name, u in embedded.items():
        crossed = [
            literal_transformer(net.crosses[f"{name}_from_{source}"], u, embedded[source], itself=False)
            for source in DIMENSIONS
            if source != name
        ]
        both = [[v for rows in crossed for v in rows[t]] for t in range(len(u))]
        last = literal_transformer(net.selves[name], both, both, itself=True)[-1]
        h += last if int(batch.lengths[name][row]) else [0.0] * len(last)
    return affine(net.last, plus(h, affine(net.second, relu(affine(net.first, h)))))


@pytest.mark.parametrize("settings", [{}, {"causal": False, "audio_kernel": 3}], ids=str)
def test_a_literal_loop_gives_the_same(settings: dict) -> None:
    net = model(**settings)
    assert [len(net.selves["text"].layers), len(net.crosses["text_from_audio"].layers)] == [3, 2]
    # Clip 2 has one step of video, less than the kernel; clip 1 has no audio.
    batch = random_batch().without(["audio"], torch.tensor([False, True, False, False]))
    for row, found in enumerate(outputs(net, batch)):
        torch.testing.assert_close(found, torch.tensor(literal(net, batch, row)), rtol=1e-4, atol=1e-4)


def test_mmsa_gives_the_same_figures() -> None:
    # From github.com/thuiar/MMSA, src/MMSA/models/singleTask/MULT.py with its settings for MOSEI, in evaluation mode,
    # with these weights and features.
    public = [
        [2.6773634, -1.2346494, 1.0892575, 0.8708454, 0.6836492, -1.1290159],
        [2.9518065, -1.5382991, 1.0110855, 1.4272944, 0.8722948, -1.1723243],
    ]
    net = MulT(PUBLISHED, 6).eval()
    fill_by_formula(net)
    assert sum(p.numel() for p in net.parameters()) == 983_856  # as in MMSA
    with torch.no_grad():
        output = net(formula_batch(PUBLISHED, {"text": [9, 9], "audio": [14, 14], "video": [11, 11]}))
    torch.testing.assert_close(output.values, torch.tensor(public), rtol=0, atol=1e-5)


def test_a_clip_is_judged_on_its_own_with_any_modalities() -> None:
    assert_depends_on_its_own_clip_alone(model())
    assert_missing_modalities_are_not_read(model())
    dimensions = {"face": 5, "text": 6}
    net = MulT(dimensions, 2, **SMALL)
    assert_depends_on_its_own_clip_alone(net, random_batch(dimensions, {name: [3, 1, 4, 2] for name in dimensions}))


def test_every_weight_learns() -> None:
    net, batch, task = model(width=16).train(), random_batch(), LabelTask(LABELS)
    batch.targets.update(task.targets([Clip(id=str(i), text="x", label=LABELS[i % 3]) for i in range(4)]))
    assert_every_parameter_learns(net, net.loss(net(batch), batch, task)["loss"])


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="width=9 must be a multiple of heads=2"):
        model(width=9)
    with pytest.raises(ValueError, match="needs two or more; there is text"):
        MulT({"text": 4}, 2)
    with pytest.raises(ValueError, match=r"text_dropout=1 must lie in \[0, 1\)"):
        model(text_dropout=1)
