"""A fusion model on features, trained and tested like every other system."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mosear.data.clip import Clip
from mosear.evaluation.answering import Answering
from mosear.evaluation.contribution import ClipValues, summarise_contribution
from mosear.evaluation.predictions import BAD_MEDIA, PredictionRow
from mosear.evaluation.runs import FUSION
from mosear.fusion.augment import Augment, noisy_clips, spread
from mosear.fusion.batch import FeatureBatch
from mosear.fusion.datamodule import FusionDataModule
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.readings import clip_values, readings
from mosear.fusion.tasks import Task
from mosear.methods.optim import Tuning, build_optimiser, build_schedule
from mosear.methods.processes import gathered, rank, world_size
from mosear.methods.system import TUNED, System
from mosear.problems import ConfigError, Problem

WEIGHTS = "model.safetensors"


class FusionSystem(System):
    """One fusion model.

    Args:
        model: what is trained.
        task: what it predicts.
        data: batches of features.
        answering: ``readings`` and ``contribution`` of it are used.
        tuning: optimiser and schedule.
        augment: what is done to training features.
        test_noise: the test is done again with Gaussian noise of so many standard deviations of the features, for each
            of these; ``metrics.json`` has the accuracies under ``noise``.
        description: of model and task, as the config has it; saved with the weights.
        run: constant columns of the predictions (benchmark, model, steering, seed).
    """

    data: FusionDataModule
    labels: list[str]

    def __init__(
        self,
        model: FusionModel,
        task: Task,
        data: FusionDataModule,
        answering: Answering | None = None,
        *,
        tuning: Tuning | None = None,
        augment: Augment | None = None,
        test_noise: Sequence[float] = (),
        description: Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.task, self.data, self.labels = model, task, data, task.labels
        self.answering, self.tuning, self.augment = answering or Answering(), tuning or Tuning(), augment or Augment()
        if any(not (isinstance(share, int | float) and share > 0) for share in test_noise):
            raise ValueError(f"test_noise={list(test_noise)} must be a list of numbers above 0.")
        self.test_noise, self.description = tuple(test_noise), dict(description or {})
        self.run = dict(run or {"benchmark": "none", "model": TUNED})
        self.rows: list[PredictionRow] = []
        self.contributions: list[ClipValues] = []
        self._measured: frozenset[str] = frozenset()
        self._validation: list[tuple[FusionOutput, Sequence[Clip]]] = []
        self._kept: list[dict[str, float]] = []
        self._noisy: list[tuple[float, str, float]] = []
        self._spreads: dict[str, float] = {}
        self._start = {name: value.clone() for name, value in model.state_dict().items()}

    # -- what a run asks --------------------------------------------------------------------------------------------

    @property
    def is_tuned(self) -> bool:
        """There is no model before training."""
        return True

    @contextmanager
    def untuned(self) -> Iterator[None]:
        """The weights as they were drawn."""
        trained = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self._start)
        try:
            yield
        finally:
            self.model.load_state_dict(trained)

    def parameter_counts(self) -> dict[str, int]:
        """Of the model; the towers that made the features are not part of it."""
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return {"trainable": trainable, "frozen": sum(p.numel() for p in self.model.parameters()) - trainable}

    def save(self, directory: Path, *, write: bool = True) -> None:
        """``model.safetensors`` and ``fusion.json``."""
        if not write:
            return
        directory.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, directory / WEIGHTS)
        content = {**self.description, **self._shape(), "task_state": self.task.state_dict()}
        (directory / FUSION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def restore(self, directory: Path) -> None:
        """Take saved weights and what the task chose on validation data."""
        content = json.loads((directory / FUSION).read_text(encoding="utf-8"))
        for name, value in self._shape().items():
            if content.get(name) != value:
                told = f"was trained with {name} {content.get(name)}, but here it is {value}"
                raise ConfigError([Problem("run", str(directory), told, f"Keep {name} as in that run.")])
        self.model.load_state_dict(load_file(directory / WEIGHTS))
        self.task.load_state_dict(content["task_state"])

    def _shape(self) -> dict[str, Any]:
        return {"dimensions": self.model.dimensions, "outputs": self.model.outputs, "labels": list(self.labels)}

    @property
    def title(self) -> str:
        """The model's class."""
        return type(self.model).__name__

    def about(self) -> Mapping[str, Any]:
        """Model, task and features."""
        return {"model": self.title, "task": self.task.name, **self.data.source.about()}

    def test_clips(self) -> Mapping[str, Clip]:
        """By id."""
        return {clip.id: clip for clip in self.data.manifest("test")}

    def media(self, clip: Clip) -> tuple[Path | None, Path | str | None]:
        """Where the clip lies, if its features came from media."""
        return self.data.source.media(clip)

    def test_summary(self) -> Mapping[str, Any]:
        """What each modality contributes, if that was measured; means of the model's own figures."""
        found: dict[str, Any] = {}
        if self.contributions:
            threshold = self.answering.contribution.collapse_threshold
            seed = int(self.run.get("seed", 0))
            found["contribution"] = summarise_contribution(self.contributions, threshold=threshold, seed=seed)
        if self._noisy:
            found["noise"] = noise_summary(self._noisy)
        if self._kept:
            found["model_figures"] = {
                name: sum(one[name] for one in self._kept) / len(self._kept) for name in self._kept[0]
            }
        return found

    def summary(self) -> Mapping[str, Any]:
        """What the task chose on validation data."""
        return {"task": {"name": self.task.name, **self.task.state_dict()}}

    # -- training ---------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Processes start from one seed; from here on their dropout differs."""
        if world_size() > 1:
            torch.manual_seed(torch.initial_seed() + rank())

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """One pass."""
        output: FusionOutput = self.model(batch)
        return output

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> Tensor:
        """The model's loss."""
        batch = self.augment(batch)
        losses = self.model.loss(self(batch), batch, self.task)
        for name, value in losses.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=len(batch))
        return losses["loss"]

    def configure_optimizers(self) -> Any:
        """Optimiser and per-step schedule."""
        optimiser = build_optimiser(self.parameters(), self.tuning)
        schedule = build_schedule(optimiser, self.tuning, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        """Keep what the model puts out."""
        self._validation.append((self(batch).cpu(), batch.clips))

    def on_validation_epoch_end(self) -> None:
        """Let the task choose what it has to, and log its figures; ``val/loss`` selects the weights."""
        found, self._validation = gathered(self._validation), []
        if not found:
            return
        outputs, clips = [output for output, _ in found], [clip for _, own in found for clip in own]
        self.task.fit(outputs, clips)
        for name, value in self.task.validation(outputs, clips).items():
            self.log(f"val/{name}", value, prog_bar=True)

    def on_test_epoch_start(self) -> None:
        """Start a fresh table of predictions, and choose the clips whose modalities are weighed."""
        self.rows, self.contributions, self._kept, self._noisy = [], [], [], []
        if self.test_noise:
            whole = self.data.batch("test", range(len(self.data.table("test"))))
            self._spreads = {name: spread(whole, name) for name in whole.modalities}
        if self.answering.contribution.enabled:
            self._measured = self.answering.contribution.chosen(self.data.manifest("test"))

    def test_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        """Predict, from all modalities and from each alone; a clip with bad media has no prediction, so it is wrong."""
        for bad in batch.bad:
            about = {**self._about_clip(bad.clip), **self.task.truth(bad.clip)}
            self.rows.append(PredictionRow(**about, prediction=None, unparsed_reason=BAD_MEDIA + bad.cause))
        output = self(batch)
        answers = self.task.predictions(output, batch.clips)
        if self.answering.readings:
            answers = [one | own for one, own in zip(answers, readings(self.model, batch, self.task), strict=True)]
        self.rows += [PredictionRow(**self._about_clip(c), **own) for c, own in zip(batch.clips, answers, strict=True)]
        self.contributions += clip_values(self.model, batch, self.task, self._measured)
        for share in self.test_noise:
            worths = self.task.worths(self(noisy_clips(batch, share, self._spreads)), batch.clips)
            self._noisy += [(share, clip.subset, worth) for clip, (worth, _) in zip(batch.clips, worths, strict=True)]
        figures = {name: value for name, value in output.extras.items() if value.ndim == 1 and len(value) == len(batch)}
        self._kept += [{name: float(value[row]) for name, value in figures.items()} for row in range(len(batch))]

    def on_test_epoch_end(self) -> None:
        """Every process gets all rows."""
        self.rows, self.contributions = gathered(self.rows), gathered(self.contributions)
        self._noisy = gathered(self._noisy)
        order = {name: index for index, name in enumerate(self.test_clips())}
        self.rows.sort(key=lambda row: order[row.id])

    def _about_clip(self, clip: Clip) -> dict[str, Any]:
        about = {"id": clip.id, "subset": clip.subset, "split": clip.split, "video": clip.video, "text": clip.text}
        return {**about, **self.run}

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the task chose."""
        checkpoint["task"] = self.task.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put it back."""
        self.task.load_state_dict(checkpoint.get("task", {}))

    def rank_state(self) -> dict[str, Any]:
        """Nothing beside the generators, which every checkpoint has."""
        return {}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


def noise_summary(found: Sequence[tuple[float, str, float]]) -> dict[str, dict[str, float]]:
    """``{noise: {subset: accuracy}}``."""
    parts: dict[str, dict[str, list[float]]] = {}
    for share, subset, worth in found:
        parts.setdefault(f"{share:g}", {}).setdefault(subset, []).append(worth)
    return {share: {name: sum(own) / len(own) for name, own in subsets.items()} for share, subsets in parts.items()}
