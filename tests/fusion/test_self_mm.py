"""Self-MM: equations as loops, figures of MMSA's code, labels that go on after a resume."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from mosear.data.clip import Clip
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.modality_labels import ModalityLabels
from mosear.fusion.models.self_mm import SelfMM
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
from tests.helpers.literal import Row, affine, lstm, mean_of, norm, numbers, relu

SMALL = {"audio_hidden": 4, "video_hidden": 3, "audio_out": 3, "video_out": 4, "fusion_width": 6, "text_width": 5}
PUBLISHED = {"text": 768, "audio": 74, "video": 35}
SCORES = [2.0, -1.0, 0.5, -2.4]
SIZES = {"fusion": 5, "text": 4, "audio": 3, "video": 2}


class ScoreTask(LabelTask):
    """A task with a score as its truth; the model has a loss of its own."""

    name = "score"


TASK = ScoreTask([])


def model(**settings) -> SelfMM:
    torch.manual_seed(0)
    return SelfMM(DIMENSIONS, 1, **{**SMALL, "audio_width": 4, "video_width": 3, "fusion_dropout": 0.0, **settings})


def scored(batch: FeatureBatch, scores: Sequence[float] = SCORES) -> FeatureBatch:
    clips = [Clip(id=f"clip{i}", text="x") for i in range(len(batch))]
    return replace(batch, clips=clips, targets={"score": torch.tensor(scores)})


def literal(net: SelfMM, batch: FeatureBatch, row: int) -> dict[str, tuple[Row, float]]:
    """h and y of each view."""
    read = {}
    for name in DIMENSIONS:
        own = numbers(batch.features[name][row, : int(batch.lengths[name][row])])
        if name == "text":
            read[name] = mean_of(own, [1 / len(own)] * len(own))
        else:
            read[name] = affine(net.recurrent[name].out, lstm(net.recurrent[name].lstm, own)[1])
    read["fusion"] = [v for name in DIMENSIONS for v in read[name]]
    found = {}
    for view, r in read.items():
        head = net.heads[view]
        h = relu(affine(head.first, r))
        found[view] = (h, affine(head.last, relu(affine(head.second, h)))[0])
    return found


def test_a_literal_loop_gives_the_same() -> None:
    net, batch = model(), random_batch()
    extras = net.eval()(batch).extras
    for row, found in enumerate(outputs(net, batch)):
        expected = literal(net, batch, row)
        assert found.item() == pytest.approx(expected["fusion"][1], rel=1e-4, abs=1e-6)
        for view, (h, y) in expected.items():
            torch.testing.assert_close(extras[f"h_{view}"][row], torch.tensor(h))
            assert extras[f"y_{view}"][row].item() == pytest.approx(y, rel=1e-4, abs=1e-6)


def literal_new_labels(
    labels: dict[str, Row], h: dict[str, list[Row]], now: dict[str, list[Row]], n: int
) -> dict[str, Row]:
    """Labels after the n-th time that all clips came, in one batch: ``h`` are the features of the time before."""
    delta: dict[str, Row] = {}
    for view, features in now.items():
        above = [f for f, y in zip(h[view], labels[view], strict=True) if y > 0]
        below = [f for f, y in zip(h[view], labels[view], strict=True) if y < 0]
        up, down = (mean_of(part, [1 / len(part)] * len(part)) for part in (above, below))
        to = [[norm([a - b for a, b in zip(f, c, strict=True)]) for f in features] for c in (up, down)]
        delta[view] = [(d - u) / (u + 1e-8) for u, d in zip(*to, strict=True)]
    found = {"fusion": labels["fusion"]}
    for view in labels:
        if view != "fusion":
            found[view] = []
            for d, f, y, old in zip(delta[view], delta["fusion"], labels["fusion"], labels[view], strict=True):
                new = 0.5 * d / (f + 1e-8) * y + 0.5 * (y + d - f)
                found[view].append((n - 1) / (n + 1) * old + 2 / (n + 1) * min(max(new, -3.0), 3.0))
    return found


def test_the_loss_and_the_labels_are_the_equations() -> None:
    net, batch = model(), scored(random_batch())
    labels = {view: list(SCORES) for view in ("fusion", *DIMENSIONS)}
    before: dict[str, list[Row]] = {}
    for n in (1, 2, 3):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.1)
        net.train()
        found = net.loss(net(batch), batch, TASK)
        rows = [literal(net, batch, row) for row in range(4)]
        now = {view: [row[view][0] for row in rows] for view in labels}
        total = 0.0
        for view, label in labels.items():
            part = 0.0
            for row in range(4):
                weight = 1.0 if view == "fusion" else math.tanh(abs(label[row] - SCORES[row]))
                part += weight * abs(rows[row][view][1] - label[row]) / 4
            assert found[f"{view}_loss"].item() == pytest.approx(part, rel=1e-3, abs=1e-6)
            total += part
        assert found["loss"].item() == pytest.approx(total, rel=1e-3)
        if n > 1:
            labels = literal_new_labels(labels, before, now, n)
        before = now
        made = net.labels.labels(torch.arange(4))
        for view, label in labels.items():
            torch.testing.assert_close(made[view], torch.tensor(label), rtol=2e-3, atol=2e-4)


def test_mmsa_gives_the_same_figures() -> None:
    # From github.com/thuiar/MMSA, src/MMSA/models/multiTask/SELF_MM.py in evaluation mode, with these weights and
    # features (the mean of the text in the place of BERT's first token).
    net = SelfMM(PUBLISHED, 1).eval()
    fill_by_formula(net)
    assert sum(p.numel() for p in net.parameters()) == 165_668  # as in MMSA, without its BERT
    with torch.no_grad():
        extras = net(formula_batch(PUBLISHED, {"text": [4, 4], "audio": [9, 6], "video": [3, 7]})).extras
    public = {
        "fusion": [1.4628404, 1.5641348],
        "text": [-1.1649202, -0.8035741],
        "audio": [-1.6040107, -1.6769201],
        "video": [-0.2261260, -0.1183665],
    }
    for view, y in public.items():
        torch.testing.assert_close(extras[f"y_{view}"], torch.tensor(y), rtol=0, atol=5e-6)


# Labels of six clips after the second and the fourth epoch, from src/MMSA/trains/multiTask/SELF_MM.py (update_labels,
# update_features, update_centers), batches of three.
PUBLIC_LABELS = {
    2: {
        "text": [-1.1229830, -0.5539728, 0.5277465, 1.0249370, 0.5049747, 0.6703856],
        "audio": [2.6666667, -0.5882059, 0.5221400, -0.3205017, -0.0388142, -0.0511587],
        "video": [2.6666667, -0.7362020, 0.5015438, 0.9961463, -0.1689357, -1.5999999],
    },
    4: {
        "text": [1.1017667, 0.0500982, 0.5811117, -0.4154767, 0.0963853, 0.8376535],
        "audio": [1.1382062, -1.0800235, 0.3260373, -1.5759431, 0.4504202, 0.0227962],
        "video": [0.4611687, -0.3334976, 0.2588132, -0.5912097, -0.0314984, 0.0672358],
    },
}


def test_mmsa_makes_the_same_labels_also_after_a_resume() -> None:
    scores, ids = torch.tensor([2.0, -1.0, 0.5, -2.4, 0.0, 1.2]), [f"clip{i}" for i in range(6)]
    store, everyone = ModalityLabels(SIZES, 3.0), dict.fromkeys(SIZES, torch.ones(3, dtype=torch.bool))
    for epoch in range(1, 5):
        for batch in torch.tensor([[0, 1, 2], [3, 4, 5]] if epoch % 2 else [[5, 2, 1], [0, 4, 3]]):
            features = {
                view: formula((6, size), epoch * 10 + k)[batch] + scores[batch, None] * 0.3
                for k, (view, size) in enumerate(SIZES.items())
            }
            store.update(store.rows([ids[i] for i in batch.tolist()], scores[batch]), features, everyone)
        if epoch in PUBLIC_LABELS:
            found = store.labels(store.rows(ids, scores))
            for view, labels in PUBLIC_LABELS[epoch].items():
                torch.testing.assert_close(found[view], torch.tensor(labels), rtol=0, atol=5e-6)
            assert torch.equal(found["fusion"], scores)
        state, store = store.state(), ModalityLabels(SIZES, 3.0)
        store.load(state)


def test_the_labels_are_part_of_the_weights() -> None:
    net, batch = model(), scored(random_batch())
    for _ in range(3):
        net.loss(net.train()(batch), batch, TASK)
    fresh = model()
    fresh.load_state_dict(net.state_dict())
    before = net.labels.state()
    for made in (net, fresh):
        made.loss(made.eval()(batch), batch, TASK)  # not in training: nothing goes on
    assert all(isinstance(value, torch.Tensor) for value in net.state_dict().values())
    assert torch.equal(fresh.labels.state(), before) and torch.equal(net.labels.state(), before)
    assert len(fresh.labels) == 4
    one, two = (made.loss(made.train()(batch), batch, TASK)["loss"].item() for made in (net, fresh))
    assert one == two


def test_what_a_clip_lacks_gets_no_label() -> None:
    net, batch = model(), scored(random_batch())
    without = batch.without(["audio"], torch.tensor([True, False, False, False]))
    for _ in range(3):
        found = net.loss(net.train()(without), without, TASK)
    made = net.labels.labels(torch.arange(4))
    assert made["audio"][0] == made["fusion"][0] == 2.0 and made["text"][0] != 2.0
    silent = batch.without(["audio"])
    assert net.loss(net(silent), silent, TASK)["audio_loss"].item() == 0.0
    assert found["loss"].isfinite()


def test_without_a_clip_above_or_below_zero_labels_stay() -> None:
    net, batch = model(), scored(random_batch(), [1.0, 2.0, 0.0, 3.0])
    for _ in range(3):
        found = net.loss(net.train()(batch), batch, TASK)["loss"]
    assert found.isfinite()
    assert all(label.tolist() == [1.0, 2.0, 0.0, 3.0] for label in net.labels.labels(torch.arange(4)).values())


def test_many_clips_fit() -> None:
    store = ModalityLabels(SIZES, 3.0)
    rows = store.rows([str(i) for i in range(300)], torch.arange(300.0))
    assert rows.tolist() == list(range(300)) and len(store) == 300
    assert store.labels(store.rows(["7", "299"], torch.zeros(2)))["text"].tolist() == [7.0, 299.0]


def test_a_clip_is_judged_on_its_own() -> None:
    assert_depends_on_its_own_clip_alone(model())
    assert_missing_modalities_are_not_read(model())


def test_every_weight_learns() -> None:
    wide = dict.fromkeys(("audio_out", "video_out", "fusion_width", "text_width", "audio_width", "video_width"), 24)
    net, batch = model(**wide).train(), scored(random_batch(), [9.0, 8.0, 7.0, -9.0])  # signs of errors do not cancel
    for _ in range(2):
        net.loss(net(batch), batch, TASK)  # at first the modalities have no weight
    loss = net.loss(net(batch), batch, TASK)["loss"]
    assert_every_parameter_learns(net, loss)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"predicts one score, and the task wants 3 outputs. Set task=score"):
        SelfMM(DIMENSIONS, 3)
    with pytest.raises(ValueError, match="limit=0 must be positive"):
        model(limit=0)


@pytest.fixture
def two_processes():
    """A group of two, of which this process is one."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    torch.distributed.destroy_process_group()


def test_several_processes_are_refused(two_processes) -> None:
    net, batch = model(), scored(random_batch())
    with pytest.raises(ValueError, match=r"one process. Set trainer.devices=1"):
        net.loss(net(batch), batch, TASK)
