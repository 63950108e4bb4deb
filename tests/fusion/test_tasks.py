"""Tasks against literal loops: targets, losses, thresholds, predictions, and what becomes of numbers that are not
finite."""

import json
import math

import pytest
import torch

from mosear.data.clip import Clip
from mosear.evaluation.predictions import PredictionRow, read_predictions, write_predictions
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionOutput
from mosear.fusion.tasks import Task
from mosear.fusion.tasks.label import LabelTask
from mosear.fusion.tasks.labels import LabelSetTask
from mosear.fusion.tasks.score import ScoreTask
from mosear.fusion.tasks.series import SeriesTask

LABELS = ["angry", "happy", "sad"]
LEVELS = {"angry": -1.0, "happy": 1.0, "sad": -0.5}
PLANE = {"angry": [-0.6, 0.7], "happy": [0.8, 0.4], "sad": [-0.7, -0.5]}


def series(valence: list[float | None], arousal: list[float | None]) -> str:
    return json.dumps({"rate": 5.0, "valence": valence, "arousal": arousal})


CLIPS = [
    Clip(id="a", text="x", label="happy", labels=("happy", "angry"), score=0.9, series=series([0.1, 0.5], [0.0, None])),
    Clip(id="b", text="x", label="sad", labels=("sad",), score=-0.6, series=series([-0.9], [-0.4])),
    Clip(id="c", text="x", label="angry", labels=(), score=0.0, series=series([None, -0.1, 0.3], [0.2, 0.9, 0.7])),
]
TASKS = [LabelTask(LABELS), LabelSetTask(LABELS), ScoreTask(LABELS, levels=LEVELS), SeriesTask(LABELS, levels=PLANE)]


def output_of(task: Task, seed: int = 0) -> FusionOutput:
    generator = torch.Generator().manual_seed(seed)
    if task.name == "series":
        return FusionOutput(torch.randn(3, 4, 2, generator=generator), torch.tensor([4, 2, 3]))
    return FusionOutput(torch.randn(3, task.outputs, generator=generator))


def batch_of(task: Task) -> FeatureBatch:
    return FeatureBatch({}, {"text": torch.ones(3, dtype=torch.long)}, CLIPS, task.targets(CLIPS))


def test_label_loss_is_cross_entropy() -> None:
    task = TASKS[0]
    values = output_of(task).values
    expected = 0.0
    for row, clip in zip(values.tolist(), CLIPS, strict=True):
        total = sum(math.exp(v) for v in row)
        expected -= math.log(math.exp(row[LABELS.index(str(clip.label))]) / total)
    assert float(task.loss(output_of(task), batch_of(task))) == pytest.approx(expected / 3)


def test_set_loss_is_binary_cross_entropy() -> None:
    task = LabelSetTask(LABELS)
    truth = [[1, 1, 0], [0, 0, 1], [1, 0, 0]]  # c has no set, so its label counts as one
    assert task.targets(CLIPS)["labels"].tolist() == truth
    expected = 0.0
    for row, own in zip(output_of(task).values.tolist(), truth, strict=True):
        for value, there in zip(row, own, strict=True):
            p = 1 / (1 + math.exp(-value))
            expected -= math.log(p if there else 1 - p)
    assert float(task.loss(output_of(task), batch_of(task))) == pytest.approx(expected / 9)


def test_a_clip_without_any_label_has_the_empty_set() -> None:
    clip = Clip(id="d", text="x")
    assert LabelSetTask(LABELS).truth(clip) == {"label": "none", "labels": []}


@pytest.mark.parametrize("criterion", ["micro_f1", "jaccard"])
def test_the_threshold_is_the_best_on_validation_data(criterion: str) -> None:
    task = LabelSetTask(LABELS, criterion=criterion)  # type: ignore[arg-type]
    outputs = [output_of(task, seed) for seed in range(5)]
    clips = CLIPS * 5
    task.fit(outputs, clips)

    def figure(threshold: float) -> float:
        hits = found = there = 0
        shares = []
        rows = [row for output in outputs for row in output.values.tolist()]
        for row, clip in zip(rows, clips, strict=True):
            own = set(clip.labels or [clip.label])
            chosen = {name for name, value in zip(LABELS, row, strict=True) if 1 / (1 + math.exp(-value)) >= threshold}
            hits, found, there = hits + len(own & chosen), found + len(chosen), there + len(own)
            shares.append(len(own & chosen) / len(own | chosen) if own | chosen else 0.0)
        return 2 * hits / (found + there) if criterion == "micro_f1" else sum(shares) / len(shares)

    best = max(figure(step / 100) for step in range(5, 96))
    assert figure(task.threshold) == pytest.approx(best)
    assert task.validation(outputs, clips)[criterion] == pytest.approx(best)
    again = LabelSetTask(LABELS)
    again.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert again.threshold == task.threshold


def test_a_threshold_that_is_given_stays() -> None:
    task = LabelSetTask(LABELS, threshold=0.3)
    task.fit([output_of(task)], CLIPS)
    assert task.threshold == 0.3
    with pytest.raises(ValueError, match=r"threshold=1\.5 must lie between 0 and 1"):
        LabelSetTask(LABELS, threshold=1.5)


def test_score_loss_and_class() -> None:
    values = output_of(TASKS[2]).values[:, 0].tolist()
    errors = [value - float(clip.score or 0) for value, clip in zip(values, CLIPS, strict=True)]
    absolute = ScoreTask(LABELS, levels=LEVELS)
    squared = ScoreTask(LABELS, levels=LEVELS, error="squared")
    assert float(absolute.loss(output_of(absolute), batch_of(absolute))) == pytest.approx(sum(map(abs, errors)) / 3)
    assert float(squared.loss(output_of(squared), batch_of(squared))) == pytest.approx(sum(e * e for e in errors) / 3)
    assert [absolute.nearest(score) for score in (-2, -0.76, -0.74, 0.24, 0.26)] == [
        "angry", "angry", "sad", "sad", "happy",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="levels must give a score to exactly the labels angry, happy, sad"):
        ScoreTask(LABELS, levels={"angry": 0.0})


def test_series_loss_is_one_minus_the_concordance_of_annotated_steps() -> None:
    task = SeriesTask(LABELS, levels=PLANE)
    output = output_of(task)
    expected = 0.0
    for column, name in enumerate(("valence", "arousal")):
        truth, found = [], []
        for row, clip in enumerate(CLIPS):
            own = json.loads(str(clip.series))[name]
            steps = int(output.steps[row])  # type: ignore[index]
            for step, value in enumerate(own):
                place = min(max((step + 0.5) * steps / len(own) - 0.5, 0.0), steps - 1)
                below = int(place)
                share = place - below
                after = output.values[row, min(below + 1, steps - 1), column]
                mixed = (1 - share) * output.values[row, below, column] + share * after
                if value is not None:
                    truth.append(value)
                    found.append(float(mixed))
        mean_t, mean_f = sum(truth) / len(truth), sum(found) / len(found)
        covariance = sum((t - mean_t) * (f - mean_f) for t, f in zip(truth, found, strict=True)) / len(truth)
        spread = sum((t - mean_t) ** 2 for t in truth) / len(truth) + sum((f - mean_f) ** 2 for f in found) / len(found)
        expected += 1 - 2 * covariance / (spread + (mean_t - mean_f) ** 2)
    assert float(task.loss(output, batch_of(task))) == pytest.approx(expected, rel=1e-5)
    assert task.validation([output], CLIPS)["loss"] == pytest.approx(expected, rel=1e-5)


def test_series_need_an_annotated_step() -> None:
    task = SeriesTask(LABELS, levels=PLANE)
    assert task.problem(CLIPS[0]) is None
    assert "no valence and arousal" in str(task.problem(Clip(id="d", text="x", label="sad")))
    assert "none of its steps" in str(task.problem(Clip(id="d", text="x", series=series([None], [None]))))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_predictions_make_rows_that_can_be_written(task: Task, tmp_path) -> None:
    values = output_of(task)
    broken = FusionOutput(values.values.clone(), values.steps)
    broken.values[1] = math.nan
    answers = task.predictions(broken, CLIPS)
    rows = [
        PredictionRow(id=clip.id, subset="all", benchmark="b", model="tuned", **answer)
        for clip, answer in zip(CLIPS, answers, strict=True)
    ]
    assert [row.prediction is None for row in rows] == [False, True, False]
    assert rows[1].unparsed_reason == "the model's output is not finite"
    write_predictions(rows, LABELS, tmp_path / "p.parquet")
    assert [row.id for row in read_predictions(tmp_path / "p.parquet")[0]] == ["a", "b", "c"]
    worths = task.worths(values, CLIPS)
    assert len(worths) == 3 and all(0 <= credit <= 1 and math.isfinite(worth) for credit, worth in worths)
    rows = [
        PredictionRow(id=clip.id, subset="all", benchmark="b", model="tuned", **answer)
        for clip, answer in zip(CLIPS, task.predictions(values, CLIPS), strict=True)
    ]
    assert [row.credit for row in rows] == pytest.approx([credit for credit, _ in worths])
