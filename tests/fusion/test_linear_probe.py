"""A linear map of standardised mean features."""

import torch

from mosear.data.clip import Clip
from mosear.fusion.models.linear_probe import LinearProbe
from mosear.fusion.tasks.label import LabelTask
from tests.helpers.fusion_models import (
    DIMENSIONS,
    assert_depends_on_its_own_clip_alone,
    assert_every_parameter_learns,
    assert_missing_modalities_are_not_read,
    outputs,
    random_batch,
)

LABELS = ["angry", "happy", "sad"]


def probe() -> LinearProbe:
    torch.manual_seed(0)
    model = LinearProbe(DIMENSIONS, len(LABELS))
    for _ in range(5):
        model.train()(random_batch(seed=5))  # running means
    return model


def test_a_literal_loop_gives_the_same() -> None:
    model, batch = probe(), random_batch()
    for row, found in enumerate(outputs(model, batch)):
        pooled = []
        for name in DIMENSIONS:
            own = batch.features[name][row, : int(batch.lengths[name][row])]
            norm = model.norms[name]
            pooled += [
                (own[:, d].sum() / len(own) - norm.running_mean[d]) / (norm.running_var[d] + norm.eps) ** 0.5
                for d in range(own.shape[1])
            ]
        expected = model.head.weight @ torch.stack(pooled) + model.head.bias
        torch.testing.assert_close(found, expected)


def test_a_clip_is_judged_on_its_own() -> None:
    assert_depends_on_its_own_clip_alone(probe())
    assert_missing_modalities_are_not_read(probe())


def test_every_weight_learns() -> None:
    model = probe().train()
    batch = random_batch()
    clips = [Clip(id=str(i), text="x", label=LABELS[i % 3]) for i in range(len(batch))]
    task = LabelTask(LABELS)
    batch.targets.update(task.targets(clips))  # type: ignore[attr-defined]
    assert_every_parameter_learns(model, model.loss(model(batch), batch, task)["loss"])
    assert sum(p.numel() for p in model.parameters()) == (sum(DIMENSIONS.values()) + 1) * len(LABELS)


def test_over_time_every_step_is_mapped_on_its_own() -> None:
    torch.manual_seed(0)
    model = LinearProbe(DIMENSIONS, 2, over_time=True)
    for _ in range(5):
        model.train()(random_batch(seed=5))
    assert_depends_on_its_own_clip_alone(model)
    assert_missing_modalities_are_not_read(model)
    lengths = {name: [3, 3] for name in DIMENSIONS}  # one time axis: nothing is interpolated
    batch = random_batch(lengths=lengths)
    for row, found in enumerate(outputs(model, batch)):
        for step in range(3):
            own = torch.cat(
                [
                    (batch.features[name][row, step] - model.norms[name].running_mean)
                    / (model.norms[name].running_var + model.norms[name].eps) ** 0.5
                    for name in DIMENSIONS
                ]
            )
            torch.testing.assert_close(found[step], model.head.weight @ own + model.head.bias)
