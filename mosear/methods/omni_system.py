"""A frozen backbone with an adapter, tuned by a method and evaluated on labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor, nn

from mosear.backbones.identity import identity
from mosear.backbones.partitioned import shape_of, whole
from mosear.data.batches import split_media
from mosear.data.clip import Clip
from mosear.data.datamodule import ClipDataModule
from mosear.data.dataset import BadClip, ClipBatch
from mosear.data.sample import OmniBatch
from mosear.data.scores import SCORE, numbers
from mosear.evaluation.answering import Answering
from mosear.evaluation.contribution import ClipValues, summarise_contribution
from mosear.evaluation.contribution_passes import clip_values
from mosear.evaluation.predictions import BAD_MEDIA, PredictionRow
from mosear.evaluation.report import LineChart, Table
from mosear.inference.answerer import Answer, Answerer
from mosear.methods.adapter_directory import save_adapter
from mosear.methods.base import Method
from mosear.methods.optim import Tuning, build_optimiser, build_schedule
from mosear.methods.processes import gathered, rank, world_size
from mosear.methods.system import TUNED, System

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from mosear.backbones.backbone import OmniBackbone


class OmniSystem(System):
    """One backbone with its adapter.

    Args:
        backbone: frozen; if ``network`` is a PEFT model, its model carries the adapter's layers.
        network: the PEFT model around ``backbone.model``, or ``backbone.model`` itself.
        data: clips and their question.
        answering: how answers are read in evaluation.
        method: how it is tuned; ``None`` = it is not.
        tuning: optimiser and schedule.
        run: constant columns of the predictions (benchmark, model, steering, seed).
        split: of the clips that it is tested on.
    """

    data: ClipDataModule
    strict_loading = False  # checkpoints hold trainable weights alone; on_load_checkpoint asserts it

    def __init__(
        self,
        backbone: OmniBackbone,
        network: nn.Module,
        data: ClipDataModule,
        answering: Answering | None = None,
        *,
        method: Method | None = None,
        tuning: Tuning | None = None,
        run: Mapping[str, Any] | None = None,
        split: str = "test",
    ) -> None:
        super().__init__()
        self.backbone, self.network, self.data, self.split = backbone, network, data, split
        if method is not None:
            data.written = method.learns_written
        self.method, self.tuning, self.answering = method, tuning or Tuning(), answering or Answering()
        self.run = dict(run or {"benchmark": "none", "model": TUNED})
        self.prompt, self.labels, self.synonyms = data.prompt, data.prompt.labels, data.prompt.synonyms
        self.answerer = Answerer(
            backbone,
            data.prompt,
            method=self.answering.method,
            max_new_tokens=self.answering.max_new_tokens,
            unimodal=self.answering.readings,
        )
        self.trie, self.builder, self.cache = self.answerer.trie, data.builder, data.cache
        self.rows: list[PredictionRow] = []
        self.contributions: list[ClipValues] = []
        self._measured: frozenset[str] = frozenset()
        self._validation: list[tuple[str, bool, float | None]] = []  # no loss: the clip could not be used

    # -- what a run asks --------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.run.get("seed", 0))

    @property
    def steps_done(self) -> int:
        """Optimiser steps so far; 0 outside a trainer."""
        return self.global_step if self._trainer is not None else 0

    @property
    def own_loggers(self) -> Sequence[Logger]:
        """The run's loggers on the first process; none on others and outside a trainer."""
        return self.trainer.loggers if self._trainer is not None and self.trainer.is_global_zero else ()

    @property
    def is_tuned(self) -> bool:
        """With an adapter."""
        return isinstance(self.network, PeftModel)

    def untuned(self) -> AbstractContextManager[None]:
        """The bare backbone."""
        if not isinstance(self.network, PeftModel):
            return nullcontext()
        off: AbstractContextManager[None] = self.network.disable_adapter()
        return off

    def parameter_counts(self) -> dict[str, int]:
        """Of adapter and backbone, towers included."""
        towers = [self.backbone.model.get_submodule(path) for path in self.backbone.family.tower_paths]
        found = {id(p): p for module in (self.network, *towers) for p in module.parameters()}  # ZeRO-3: towers apart
        trainable = sum(math.prod(shape_of(p)) for p in found.values() if p.requires_grad)
        return {"trainable": trainable, "frozen": sum(math.prod(shape_of(p)) for p in found.values()) - trainable}

    def save(self, directory: Path, *, write: bool = True) -> None:
        """The adapter, in PEFT's own format."""
        assert isinstance(self.network, PeftModel), "only adapters are saved; the backbone is frozen"
        found = identity(self.backbone)
        with whole(parameter for parameter in self.network.parameters() if parameter.requires_grad):
            if write:
                save_adapter(self.network, self.backbone.name, found, directory)

    def restore(self, directory: Path) -> None:
        """The saved adapter (the best on validation data), so that eval.py finds the same numbers."""
        assert isinstance(self.network, PeftModel), "only adapters are saved"
        with whole((p for p in self.network.parameters() if p.requires_grad), changed=True):
            set_peft_model_state_dict(self.network, load_peft_weights(str(directory), device="cpu"))

    @property
    def title(self) -> str:
        """The backbone."""
        return self.backbone.name

    def about(self) -> Mapping[str, Any]:
        """The backbone."""
        return {"backbone": self.backbone.name}

    def test_clips(self) -> Mapping[str, Clip]:
        """By id, in the manifest's order."""
        return {clip.id: clip for clip in self.data.manifest(self.split)}

    def media(self, clip: Clip) -> tuple[Path | None, Path | str | None]:
        """Below the data's root."""
        return self.data.sources(clip)

    def test_summary(self) -> Mapping[str, Any]:
        """What each modality contributes, if that was measured."""
        if not self.contributions:
            return {}
        threshold = self.answering.contribution.collapse_threshold
        return {"contribution": summarise_contribution(self.contributions, threshold=threshold, seed=self.seed)}

    def summary(self) -> Mapping[str, Any]:
        """The method's."""
        return {} if self.method is None else self.method.summary()

    def charts(self) -> Sequence[LineChart]:
        """The method's."""
        return () if self.method is None else self.method.charts()

    def tables(self) -> Sequence[Table]:
        """The method's."""
        return () if self.method is None else self.method.tables()

    # -- training ---------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Processes start from one seed (their adapters must be equal); from here on their dropout differs."""
        if world_size() > 1:
            torch.manual_seed(torch.initial_seed() + rank())

    def on_train_start(self) -> None:
        """The method prepares itself."""
        assert self.method is not None, "a system that is trained has a method"
        self.method.setup(self)
        self.on_train_epoch_start()  # not called for an epoch that is resumed inside

    def training_batches(self, clips: int) -> Iterator[OmniBatch]:
        """This process's part of an even sample of the training clips, encoded, without answers."""
        for batch in self.data.eval_loader("train", at_most=clips):
            if batch.data is not None:
                yield self.encoded(batch.to(self.backbone.device))

    def on_train_epoch_start(self) -> None:
        """Adapters train (their dropout is on); the frozen towers stay in evaluation mode."""
        self.network.train()
        self.backbone.towers_eval()

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """The method's loss."""
        assert batch.data is not None, "training replaces bad clips, so a batch is never empty"
        assert self.method is not None, "a system that is trained has a method"
        data = self.encoded(batch)
        loss = self.method.loss(data, batch_idx)
        for name, value in loss.logs.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=len(data))
        return loss.value

    def encoded(self, batch: ClipBatch) -> OmniBatch:
        """The batch with encoded media; what was missing from the cache is written to it."""
        assert batch.data is not None
        media = self.backbone.encode(batch.data.media)
        if any(batch.cache_names) or (batch.resident is not None and batch.resident.wants(batch.data.clips)):
            self.data.keep(batch, split_media(media, batch.data))
        return replace(batch.data, media=media)

    def configure_optimizers(self) -> Any:
        """Optimiser and per-step schedule over the trainable parameters."""
        self._refuse_adapted_towers()
        optimiser = build_optimiser(self.parameters(), self.tuning)
        schedule = build_schedule(optimiser, self.tuning, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _refuse_adapted_towers(self) -> None:
        """A tower runs without gradients and its outputs are cached: weights in it would never train."""
        towers = tuple(f"{path}." for path in self.backbone.family.tower_paths)
        inside = [name for name in trained_names(self.backbone.model) if name.startswith(towers)]
        if inside:
            raise ValueError(
                f"The adapter put {len(inside)} trainable tensors into the frozen towers (the first: {inside[0]}). "
                "PEFT may match more than target_modules says; set adapter.exclude_modules='.*(audio_tower|visual).*'."
            )

    # -- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Negative log-probability of the right label among the candidates, and whether it comes first."""
        self._validation += [(bad.clip.subset, False, None) for bad in batch.bad]
        if batch.data is None:
            return
        data = self.encoded(batch)
        for clip, row in zip(data.clips, self.answerer.label_log_probs(data).cpu(), strict=True):
            gold = self.labels.index(gold_label(clip))
            right = bool(row.isfinite().all()) and int(row.argmax()) == gold  # argmax takes NaN for the largest
            self._validation.append((clip.subset, right, -float(row[gold])))

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss`` and ``val/accuracy``; where there are several subsets, also each one's and their mean."""
        results, self._validation = gathered(self._validation), []
        if not results:
            return
        scored = [loss for _, _, loss in results if loss is not None]  # NaN counts: no clip's loss may be hidden
        if scored:
            self.log("val/loss", sum(scored) / len(scored), prog_bar=True)
        self.log("val/accuracy", sum(ok for _, ok, _ in results) / len(results), prog_bar=True)
        subsets: dict[str, list[bool]] = {}
        for subset, ok, _ in results:
            subsets.setdefault(subset, []).append(ok)
        if len(subsets) > 1:
            accuracies = {subset: sum(own) / len(own) for subset, own in sorted(subsets.items())}
            for subset, accuracy in accuracies.items():
                self.log(f"val/{subset}/accuracy", accuracy)
            self.log("val/subset_mean", sum(accuracies.values()) / len(accuracies))

    def on_test_epoch_start(self) -> None:
        """Start a fresh table of predictions, and choose the clips whose modalities are weighed."""
        self.rows, self.contributions = [], []
        if self.answering.contribution.enabled:
            self._measured = self.answering.contribution.chosen(self.data.manifest(self.split))

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Answer every clip; a clip with bad media is a row without a prediction, so it counts as wrong."""
        self.rows += [self.bad_row(bad) for bad in batch.bad]
        if batch.data is None:
            return
        data = self.encoded(batch)
        self.rows += self.answer(data)
        with self.answerer.knowing([clip for clip in data.clips if clip.id in self._measured]):
            self.contributions += clip_values(self.backbone, data, self.trie, self._measured)

    def on_test_epoch_end(self) -> None:
        """Every process has answered its share of the clips; each gets all rows."""
        self.rows, self.contributions = gathered(self.rows), gathered(self.contributions)
        order = {name: index for index, name in enumerate(self.test_clips())}
        self.rows.sort(key=lambda row: order[row.id])

    def answer(self, data: OmniBatch) -> list[PredictionRow]:
        """Predictions for a batch with encoded media."""
        return [self._row(clip, answer) for clip, answer in zip(data.clips, self.answerer(data), strict=True)]

    def _row(self, clip: Clip, answer: Answer) -> PredictionRow:
        alone: dict[str, Any] = {f"p_{name}": value.tolist() for name, value in answer.unimodal.items()}
        return PredictionRow(
            **self._about_clip(clip),
            prediction=answer.label,
            unparsed_reason=answer.reason,
            answer_text=answer.text,
            distribution=None if answer.distribution is None else answer.distribution.tolist(),
            **self._predicted_score(answer),
            **alone,
            **answer.steering,
        )

    def _predicted_score(self, answer: Answer) -> dict[str, Any]:
        """Where answers are scores: the expected number, or the one that was written."""
        if self.data.answer_from != SCORE or answer.label is None:
            return {}
        if answer.text is not None or answer.distribution is None:
            return {"predicted_score": float(answer.label)}
        weighted = zip(numbers(self.labels), answer.distribution.tolist(), strict=True)
        return {"predicted_score": sum(value * p for value, p in weighted)}

    def bad_row(self, bad: BadClip) -> PredictionRow:
        """The row of a clip that could not be read."""
        return PredictionRow(**self._about_clip(bad.clip), prediction=None, unparsed_reason=BAD_MEDIA + bad.cause)

    def _about_clip(self, clip: Clip) -> dict[str, Any]:
        return {
            "id": clip.id,
            "subset": clip.subset,
            "split": clip.split,
            "label": gold_label(clip),
            **({"score": clip.score} if self.data.answer_from == SCORE else {}),
            "video": clip.video,
            "text": clip.text,
            **self.run,
        }

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def trainable_names(self) -> set[str]:
        """Names of the parameters that train: all that a checkpoint holds."""
        return set(trained_names(self))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Frozen weights never enter a checkpoint."""
        if self.method is not None:
            checkpoint.update(self.method.state_dict())
        keep = self.trainable_names()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in keep}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Only frozen keys may be missing, and nothing may be foreign."""
        if self.method is not None:
            self.method.load_state_dict(checkpoint)
        if "state_dict" not in checkpoint:  # weights lie in a sharded checkpoint, whose strategy compares the names
            return
        found, expected = set(checkpoint["state_dict"]), self.trainable_names()
        if found != expected:
            raise ValueError(
                f"The checkpoint does not fit this adapter: {len(expected - found)} trainable tensors are missing "
                f"({', '.join(sorted(expected - found)[:3])}), {len(found - expected)} are unknown "
                f"({', '.join(sorted(found - expected)[:3])}). Resume with the adapter settings of the original run."
            )

    def rank_state(self) -> dict[str, Any]:
        """What every process has to keep for itself."""
        return {} if self.method is None else self.method.rank_state()

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Put :meth:`rank_state` back."""
        if self.method is not None:
            self.method.load_rank_state(state)


def trained_names(model: nn.Module) -> list[str]:
    """Names of the parameters that train."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def gold_label(clip: Clip) -> str:
    """The label, which every clip of a labelled manifest has (the data module checks it)."""
    assert clip.label is not None
    return clip.label
