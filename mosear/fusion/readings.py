"""What a fusion model says from some of the modalities alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mosear.evaluation.contribution import COMBINATIONS, ClipValues
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel
from mosear.fusion.tasks import Task
from mosear.roles import SHOWN

SHOWN_AS = {"video": "visual", "face": "visual", "frame": "visual", "audio": "audio", "text": "text"}
"""Which of the three modalities of tables and reports a stream of features belongs to."""


def shown_as(name: str) -> str:
    """Of ``audio``, and of streams such as ``audio-1``."""
    return SHOWN_AS.get(name.partition("-")[0].partition("_")[0], "visual")


def hidden(batch: FeatureBatch, visible: Collection[str]) -> FeatureBatch:
    """The batch with these modalities alone."""
    return batch.without([name for name in batch.modalities if shown_as(name) not in visible])


def present(batch: FeatureBatch, row: int) -> tuple[str, ...]:
    """Modalities of a clip."""
    own = {shown_as(name) for name in batch.modalities if int(batch.lengths[name][row]) > 0}
    return tuple(name for name in SHOWN if name in own)


def readings(model: FusionModel, batch: FeatureBatch, task: Task) -> list[dict[str, list[float]]]:
    """``p_visual``, ``p_audio``, ``p_text`` of each clip, for the modalities that it has."""
    found: list[dict[str, list[float]]] = [{} for _ in range(len(batch))]
    for modality in SHOWN:
        answers = task.predictions(model(hidden(batch, [modality])), batch.clips)
        for row, answer in enumerate(answers):
            if modality in present(batch, row) and answer.get("distribution") is not None:
                found[row][f"p_{modality}"] = answer["distribution"]
    return found


def clip_values(model: FusionModel, batch: FeatureBatch, task: Task, chosen: Collection[str]) -> list[ClipValues]:
    """The games of the batch's ``chosen`` clips (ids), as :mod:`mosear.evaluation.contribution` defines them."""
    if not any(clip.id in chosen for clip in batch.clips):
        return []
    worths: dict[tuple[str, ...], Sequence[tuple[float, float]]] = {
        visible: task.worths(model(hidden(batch, visible)), batch.clips) for visible in COMBINATIONS
    }
    return [
        ClipValues(
            id=clip.id,
            subset=clip.subset,
            present=present(batch, row),
            accuracy=tuple(worths[visible][row][0] for visible in COMBINATIONS),
            log_prob=tuple(worths[visible][row][1] for visible in COMBINATIONS),
        )
        for row, clip in enumerate(batch.clips)
        if clip.id in chosen
    ]
