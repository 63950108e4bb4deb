"""One embedding per modality, concatenated; emotion and sentiment together."""

import math

import pytest
import torch

from mosear.data.clip import Clip
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.models.late_fusion import LateFusion
from mosear.fusion.tasks.label import LabelTask
from tests.helpers.fusion_models import (
    DIMENSIONS,
    assert_depends_on_its_own_clip_alone,
    assert_every_parameter_learns,
    assert_missing_modalities_are_not_read,
    one_row,
    outputs,
    random_batch,
)

LABELS = ["angry", "happy", "surprise"]
SENTIMENT = {"angry": "negative", "happy": "positive", "surprise": None, "unused": "neutral"}


def model(**settings) -> LateFusion:
    torch.manual_seed(0)
    return LateFusion(DIMENSIONS, len(LABELS), **{"width": 6, "hidden": 5, "sentiment": SENTIMENT, **settings})


def labelled(batch: FeatureBatch, labels: list[str]) -> FeatureBatch:
    clips = [Clip(id=str(i), text="x", label=label) for i, label in enumerate(labels)]
    batch.targets.update(LabelTask(LABELS).targets(clips))
    return batch


def literal(net: LateFusion, batch: FeatureBatch) -> tuple[list[float], list[float]]:
    """Both heads for a single clip, number by number."""
    z = []
    for name, size in DIMENSIONS.items():
        length = int(batch.lengths[name][0])
        if not length:
            z += [0.0] * 6
            continue
        h = [sum(float(batch.features[name][0, t, d]) for t in range(length)) / length for d in range(size)]
        centre = sum(h) / size
        spread = math.sqrt(sum((x - centre) ** 2 for x in h) / size + net.norms[name].eps)
        z += [max(0.0, v) for v in affine(net.projections[name], [(x - centre) / spread for x in h])]
    z = [max(0.0, v) for v in affine(net.hidden, z)]
    return affine(net.head, z), affine(net.sentiment_head, z)


def affine(layer: torch.nn.Linear, x: list[float]) -> list[float]:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def test_a_literal_loop_gives_the_same() -> None:
    net = model().eval()
    batch = random_batch().without(["audio"], torch.tensor([False, True, False, False]))
    for row, found in enumerate(outputs(net, batch)):
        emotion, sentiment = literal(net, one_row(batch, row))
        torch.testing.assert_close(found, torch.tensor(emotion))
        torch.testing.assert_close(net(batch).extras["sentiment"][row], torch.tensor(sentiment))


def test_the_loss_adds_both_and_leaves_labels_without_a_sentiment_out() -> None:
    net = model(sentiment_weight=0.5).eval()
    batch = labelled(random_batch(), ["happy", "surprise", "angry", "happy"])
    found = net.loss(net(batch), batch, LabelTask(LABELS))
    emotion, sentiment = [], []
    for row, (label, feeling) in enumerate([(1, 2), (2, None), (0, 0), (1, 2)]):
        y, s = literal(net, one_row(batch, row))
        emotion.append(math.log(sum(map(math.exp, y))) - y[label])
        if feeling is not None:
            sentiment.append(math.log(sum(map(math.exp, s))) - s[feeling])
    assert found["task_loss"].item() == pytest.approx(sum(emotion) / 4, rel=1e-5)
    assert found["sentiment_loss"].item() == pytest.approx(sum(sentiment) / 3, rel=1e-5)
    assert found["loss"].item() == pytest.approx(sum(emotion) / 4 + 0.5 * sum(sentiment) / 3, rel=1e-5)
    nothing = labelled(random_batch(), ["surprise"] * 4)
    assert net.loss(net(nothing), nothing, LabelTask(LABELS))["sentiment_loss"].item() == 0.0


def test_without_a_mapping_there_is_one_head() -> None:
    net, batch = model(sentiment=None), labelled(random_batch(), ["happy"] * 4)
    output = net(batch)
    assert not output.extras and set(net.loss(output, batch, LabelTask(LABELS))) == {"loss"}
    weights = sum((size + 1) * 6 + 2 * size for size in DIMENSIONS.values()) + (18 + 1) * 5 + (5 + 1) * 3
    assert sum(p.numel() for p in net.parameters()) == weights
    assert sum(p.numel() for p in model().parameters()) == weights + (5 + 1) * 3


def test_a_clip_is_judged_on_its_own_with_any_modalities() -> None:
    for net in (model(), LateFusion({"face": 7, "words": 3}, 2)):
        lengths = {name: [3, 1, 4, 2] for name in net.dimensions}
        assert_depends_on_its_own_clip_alone(net, random_batch(net.dimensions, lengths))
    assert_missing_modalities_are_not_read(model())


def test_every_weight_learns() -> None:
    net, batch = model().train(), labelled(random_batch(), ["happy", "surprise", "angry", "happy"])
    assert_every_parameter_learns(net, net.loss(net(batch), batch, LabelTask(LABELS))["loss"])


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"LateFusion: width=0 must be at least 1; dropout=1.0 must lie in \[0, 1\)"):
        model(width=0, dropout=1.0)
    with pytest.raises(ValueError, match="sentiment="):
        model(sentiment={"angry": "bad"})
    net, batch = model(sentiment={"angry": "negative"}), labelled(random_batch(), ["happy"] * 4)
    with pytest.raises(ValueError, match="has no entry for happy, surprise"):
        net.loss(net(batch), batch, LabelTask(LABELS))
