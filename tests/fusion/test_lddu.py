"""LDDU: equations as loops, figures of the public code, the queue."""

import math

import pytest
import torch

from mosear.data.clip import Clip
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionOutput
from mosear.fusion.models.lddu import LDDU, calibration, contrast
from mosear.fusion.tasks.label import LabelTask
from tests.helpers.fusion_models import (
    DIMENSIONS,
    assert_depends_on_its_own_clip_alone,
    assert_every_parameter_learns,
    assert_missing_modalities_are_not_read,
    fill_by_formula,
    formula,
    formula_batch,
    outputs,
    random_batch,
)
from tests.helpers.literal import (
    Row,
    affine,
    dot,
    encoder_layer,
    layer_norm,
    mean_of,
    norm,
    numbers,
    plus,
    relu,
    sigmoid,
    softmax,
    unit,
)

LABELS = ["angry", "happy", "sad"]
SMALL = {"width": 8, "latent": 4, "layers": 2, "heads": 2, "feed_forward": 6, "positions": 9, "queue": 50}
PUBLISHED = {"video": 35, "audio": 74, "text": 768}


class SetTask(LabelTask):
    """A task with a set of labels as its truth."""

    name = "labels"


def model(**settings) -> LDDU:
    torch.manual_seed(0)
    return LDDU(DIMENSIONS, len(LABELS), **{**SMALL, **settings})


def with_sets(batch: FeatureBatch) -> FeatureBatch:
    batch.targets.update({"labels": torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]).float()})
    return batch


def mlp(head: torch.nn.Sequential, x: Row) -> float:
    return sigmoid(affine(head[3], relu(affine(head[0], x)))[0])


def literal(net: LDDU, batch: FeatureBatch, row: int) -> tuple[Row, Row, list[Row], list[Row]]:
    """y, y_dir, and by label the concatenated mu and sigma of one clip."""
    labels = numbers(net.label_embeddings)
    z, mu, sigma = ([[] for _ in labels] for _ in range(3))
    for name in DIMENSIONS:
        own = numbers(batch.features[name][row, : int(batch.lengths[name][row])])
        encoder, read, latent = net.encoders[name], net.label_attention[name], net.latents[name]
        steps = [
            layer_norm(
                encoder.embedded_norm,
                plus(affine(encoder.projection, layer_norm(encoder.norm, x)), numbers(encoder.positions[t])),
            )
            for t, x in enumerate(own)
        ]
        for layer in encoder.transformer.layers:
            steps = encoder_layer(layer, steps)
        h = [affine(read.read, x) for x in steps]
        for k, label in enumerate(labels):
            q = affine(read.query, label)
            p = softmax([dot(q, x) / math.sqrt(len(q)) for x in h])
            own_z = affine(read.out, mean_of(h, p))
            z[k] += own_z
            for layer in latent.hidden:
                own_z = relu(affine(layer, own_z))
            mu[k] += affine(latent.mu, own_z)
            sigma[k] += [math.exp(0.5 * v) for v in affine(latent.log_variance, own_z)]
    direct = [mlp(net.direct_head, x) for x in z]
    y = [
        mlp(net.mu_heads[k], mu[k]) * direct[k] + mlp(net.sigma_heads[k], sigma[k]) * (1 - direct[k])
        for k in range(len(labels))
    ]
    return y, direct, mu, sigma


def bce(p: list[Row], truth: list[Row]) -> float:
    cells = [
        -(t * math.log(q) + (1 - t) * math.log(1 - q))
        for ps, ts in zip(p, truth, strict=True)
        for q, t in zip(ps, ts, strict=True)
    ]
    return sum(cells) / len(cells)


def literal_contrast(entries: list[Row], classes: list[int], queue: list[Row], kinds: list[int], anchors: int) -> float:
    everything, all_classes, found = entries + queue, classes + kinds, []
    for a in range(anchors):
        others = [c for c in range(len(everything)) if c != a]
        total = sum(math.exp(dot(everything[a], everything[c]) / 2 / 0.07) for c in others)
        own = [
            dot(everything[a], everything[c]) / 2 / 0.07 - math.log(total)
            for c in others
            if all_classes[c] == all_classes[a]
        ]
        if own:
            found.append(-sum(own) / len(own))
    return sum(found) / len(found) if found else 0.0


def literal_entries(mu: list[list[Row]], sigma: list[list[Row]], truth: list[Row]) -> tuple[list[Row], list[int]]:
    entries, classes = [], []
    for b in range(len(mu)):
        for k in range(len(LABELS)):
            for m in range(3):
                part = slice(4 * m, 4 * m + 4)
                entries.append(unit(mu[b][k][part]) + unit(sigma[b][k][part]))
                classes.append(k + len(LABELS) * (2 * m + (0 if truth[b][k] else 1)))
    return entries, classes


def test_a_literal_loop_gives_the_same() -> None:
    net, batch = model(), random_batch()
    with torch.no_grad():
        net.label_embeddings.mul_(5)
    found = net.eval()(batch)
    for row in range(len(batch)):
        y, direct, mu, sigma = literal(net, batch, row)
        torch.testing.assert_close(found.values[row].sigmoid(), torch.tensor(y))
        torch.testing.assert_close(found.extras["direct"][row].sigmoid(), torch.tensor(direct))
        torch.testing.assert_close(found.extras["mu"][row].flatten(1), torch.tensor(mu))
        torch.testing.assert_close(found.extras["sigma"][row].flatten(1), torch.tensor(sigma))


def test_the_loss_is_the_equations() -> None:
    net = model(direct_weight=0.2, contrastive_weight=0.7, calibration_weight=0.4).eval()
    batch = with_sets(random_batch())
    output = net(batch)
    y, direct, mu, sigma = zip(*(literal(net, batch, row) for row in range(4)), strict=True)
    truth = numbers(batch.targets["labels"])
    entries, classes = literal_entries(mu, sigma, truth)
    net.train()
    for seen in (0, 36):  # the queue is empty, then holds the batch
        queue, kinds = entries[:seen], classes[:seen]
        found = net.loss(output, batch, SetTask(LABELS))
        p_u = softmax([norm(values) for clip in sigma for values in clip])
        p_d = softmax([value for clip in direct for value in clip])
        kl = sum(u * math.log(u / d) + d * math.log(d / u) for u, d in zip(p_u, p_d, strict=True)) / 2
        expected = {
            "final_loss": bce(list(y), truth),
            "direct_loss": bce(list(direct), truth),
            "contrastive_loss": literal_contrast(entries, classes, queue, kinds, len(entries)),
            "calibration_loss": kl,
        }
        expected["loss"] = (
            expected["final_loss"]
            + 0.2 * expected["direct_loss"]
            + 0.7 * expected["contrastive_loss"]
            + 0.4 * expected["calibration_loss"]
        )
        assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=2e-5)


def test_one_label_is_a_set_of_one() -> None:
    net, batch = model().eval(), random_batch()
    clips = [Clip(id=str(i), text="x", label=LABELS[i % 3]) for i in range(4)]
    batch.targets.update(LabelTask(LABELS).targets(clips))
    output = net(batch)
    one = net.loss(output, batch, LabelTask(LABELS))
    batch.targets.update({"labels": torch.eye(3)[[0, 1, 2, 0]]})
    assert {k: v.item() for k, v in one.items()} == {
        k: v.item() for k, v in net.loss(output, batch, SetTask(LABELS)).items()
    }


def test_the_public_code_gives_the_same_figures() -> None:
    # From github.com/201983290498/lddu_mmer, src/models/myModels.py (MyModel in evaluation mode, SupContrasts with a
    # queue of 72), with these weights and features.
    net = LDDU(PUBLISHED, 6, positions=60, queue=72, queue_anchors=True).eval()
    fill_by_formula(net)
    with torch.no_grad():
        net.label_embeddings.mul_(20)
        output = net(formula_batch(PUBLISHED, {name: [5, 5] for name in PUBLISHED}))
    y = [
        [0.4705135, 0.8630919, 0.3883329, 0.8775078, 0.9554316, 0.0969409],
        [0.4653436, 0.8640496, 0.4040081, 0.8806364, 0.9567098, 0.0985479],
    ]
    direct = [
        [0.9853147, 0.9853151, 0.9853145, 0.9853150, 0.9853146, 0.9853138],
        [0.9858745, 0.9858731, 0.9858747, 0.9858754, 0.9858729, 0.9858725],
    ]
    uncertainty = [
        [45.1040993, 45.1039925, 45.1035881, 45.1034164, 45.1041145, 45.1040306],
        [44.9477577, 44.9489059, 44.9481773, 44.9480057, 44.9486237, 44.9486351],
    ]
    torch.testing.assert_close(output.values.sigmoid(), torch.tensor(y), rtol=0, atol=3e-6)
    torch.testing.assert_close(output.extras["direct"].sigmoid(), torch.tensor(direct), rtol=0, atol=1e-6)
    sigma = output.extras["sigma"].flatten(2)
    torch.testing.assert_close(sigma.norm(dim=-1), torch.tensor(uncertainty), rtol=0, atol=2e-4)
    net.queue_values.copy_(torch.nn.functional.normalize(formula((72, 256), 3.0), dim=-1))
    net.queue_classes.copy_(torch.arange(72) % 36)
    truth = torch.tensor([[1.0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1]])
    batch = FeatureBatch({}, {}, targets={"labels": truth})
    found = net.loss(output, batch, SetTask([str(k) for k in range(6)]))["contrastive_loss"]
    assert found.item() == pytest.approx(8.1156225, abs=2e-5)


def test_the_published_model_has_its_parameters() -> None:
    net = LDDU(PUBLISHED, 6, positions=60)
    published, never_called, poolers = 6_086_707, 396_812, 197_376  # counted in the public code
    assert sum(p.numel() for p in net.parameters()) == 5_492_519 == published - never_called - poolers


def test_dropout_is_where_the_public_code_has_it() -> None:
    layers = [layer for encoder in model(dropout=0.25).encoders.values() for layer in encoder.transformer.layers]
    assert {(layer.dropout.p, layer.dropout1.p, layer.dropout2.p) for layer in layers} == {(0.0, 0.25, 0.25)}
    assert {layer.self_attn.dropout for layer in layers} == {0.25}


def test_the_queue_is_first_in_first_out_and_grows_in_training_alone() -> None:
    net, batch = model(queue=50), with_sets(random_batch())
    entries, classes = [], []
    for training in (False, True, True):
        net.train(training)
        output = net.eval()(batch)  # without dropout
        net.train(training)
        net.loss(output, batch, SetTask(LABELS))
        if training:
            mu, sigma = numbers(output.extras["mu"].flatten(2)), numbers(output.extras["sigma"].flatten(2))
            own, kinds = literal_entries(mu, sigma, numbers(batch.targets["labels"]))
            entries, classes = entries + own, classes + kinds
        expected = [-1] * 50
        for place, kind in enumerate(classes):
            expected[place % 50] = kind
        assert net.queue_classes.tolist() == expected
        for place, values in list(enumerate(entries))[-50:]:
            torch.testing.assert_close(net.queue_values[place % 50], torch.tensor(values))
    assert int(net.queue_next) == 72 % 50 and not net.queue_values.requires_grad
    assert {"queue_values", "queue_classes", "queue_next"} <= set(net.state_dict())


def test_more_entries_than_the_queue_holds_leave_the_last() -> None:
    net, batch = model(queue=7), with_sets(random_batch())
    output = net.eval()(batch)
    net.train().loss(output, batch, SetTask(LABELS))
    mu, sigma = numbers(output.extras["mu"].flatten(2)), numbers(output.extras["sigma"].flatten(2))
    entries, kinds = literal_entries(mu, sigma, numbers(batch.targets["labels"]))
    assert net.queue_classes.tolist() == kinds[-7:]
    torch.testing.assert_close(net.queue_values, torch.tensor(entries[-7:]))
    model(queue=0).loss(output, batch, SetTask(LABELS))  # no queue at all


def test_queue_entries_are_anchors_only_if_asked() -> None:
    entries, queue = torch.nn.functional.normalize(torch.randn(2, 6, 8), dim=-1)
    classes, kinds = torch.tensor([0, 0, 1, 2, 2, 5]), torch.tensor([1, 3, 3, 0, 2, 2])
    for queue_anchors, anchors in ((False, 6), (True, 12)):
        found = contrast(entries, classes, queue, kinds, 0.07, queue_anchors=queue_anchors)
        expected = literal_contrast(numbers(entries), classes.tolist(), numbers(queue), kinds.tolist(), anchors)
        assert found.item() == pytest.approx(expected, rel=1e-5)
    assert contrast(entries[:1], classes[:1], queue[:0], kinds[:0], 0.07).item() == 0.0


def test_calibration_is_zero_for_equal_distributions() -> None:
    values = torch.rand(3, 4)
    assert calibration(values + 5, values).item() == pytest.approx(0.0, abs=1e-6)


def test_a_missing_modality_has_no_part_in_the_contrast() -> None:
    net = model().train()
    batch = with_sets(random_batch()).without(["audio"], torch.tensor([True, False, True, False]))
    net.loss(net(batch), batch, SetTask(LABELS))
    modality = net.queue_classes[net.queue_classes >= 0] // len(LABELS) // 2
    assert modality.bincount().tolist() == [12, 6, 12]  # 4, 2 and 4 clips, 3 labels each


def test_a_clip_is_judged_on_its_own() -> None:
    assert_depends_on_its_own_clip_alone(model())
    assert_missing_modalities_are_not_read(model())


def test_every_weight_learns() -> None:
    net, batch = model(width=32, latent=16).train(), with_sets(random_batch())
    assert_every_parameter_learns(net, net.loss(net(batch), batch, SetTask(LABELS))["loss"])


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        model(temperature=0)
    with pytest.raises(ValueError, match="width=9 must be at least 4 and a multiple of heads=2"):
        model(width=9)
    with pytest.raises(ValueError, match="queue=-1 must not be negative"):
        model(queue=-1)
    with pytest.raises(ValueError, match=r"audio has 9 steps in a clip. Set model.positions=9 or more"):
        outputs(model(positions=8), random_batch())


def test_extremes_stay_finite() -> None:
    net, batch = model(), with_sets(random_batch())
    with torch.no_grad():
        net.direct_head[3].bias.fill_(200.0)
        for heads in (net.mu_heads, net.sigma_heads):
            for head in heads:
                head[3].bias.fill_(-200.0)
    output = net(batch)
    assert isinstance(output, FusionOutput)
    assert output.values.isfinite().all() and net.loss(output, batch, SetTask(LABELS))["loss"].isfinite()
