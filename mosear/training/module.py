"""The LightningModule: a frozen backbone with an adapter, trained on answers and evaluated on labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from mosear.backbones.masks import causal_mask
from mosear.data.cache import FeatureCache
from mosear.data.clip import Clip
from mosear.data.dataset import BadClip, ClipBatch
from mosear.data.prompt import Prompt
from mosear.data.sample import OmniBatch, SampleBuilder
from mosear.evaluation.answering import Answering
from mosear.evaluation.contribution import ClipValues
from mosear.evaluation.contribution_passes import clip_values
from mosear.evaluation.generation import generate_text
from mosear.evaluation.parsing import parse_answer
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.scoring import LabelTrie, label_log_probs, unimodal_distributions
from mosear.experts.state import SequenceState, sequence_state
from mosear.training.batches import split_media
from mosear.training.conflict_mixing import ConflictMixer, ConflictMixing
from mosear.training.loss import answer_loss
from mosear.training.mixing_target import Scale
from mosear.training.modality_dropout import dropped_modality, modality_draws
from mosear.training.optim import Tuning, build_optimiser, build_schedule
from mosear.training.processes import Part, gathered, mean_loss, mean_of_clips, rank, world_size

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.evaluation.steering import SteeredEvaluation

MIXING_SCALES = "mixing_scales"
"""Where a checkpoint keeps what conflict mixing has learned about the modalities."""


class EmotionTuner(LightningModule):
    """Tunes and evaluates one backbone.

    Args:
        backbone: frozen; if ``network`` is given, its model carries the adapter's layers.
        network: the PEFT model around ``backbone.model``, or ``backbone.model`` itself.
        prompt: names the candidate labels.
        tuning: optimiser and schedule.
        answering: how answers are read in evaluation.
        cache: where encoder outputs of uncached clips go.
        run: constant columns of the predictions (benchmark, model, steering, seed).
        mixing: conflict mixing in training; ``None`` or a rate of 0 = off.
        builder: assembles the prompts of recombined clips; mixing needs it.

    Attributes:
        steered: the steering session that is installed for an evaluation, if any.
    """

    strict_loading = False  # checkpoints hold trainable weights alone; on_load_checkpoint asserts it

    def __init__(
        self,
        backbone: OmniBackbone,
        network: nn.Module,
        prompt: Prompt,
        tuning: Tuning,
        answering: Answering,
        cache: FeatureCache | None = None,
        run: Mapping[str, Any] | None = None,
        mixing: ConflictMixing | None = None,
        builder: SampleBuilder | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.network = backbone, network
        self.prompt, self.tuning, self.answering, self.cache = prompt, tuning, answering, cache
        self.run = dict(run or {"benchmark": "none", "model": "tuned"})
        self.trie = LabelTrie.of(prompt.labels, backbone.processor.tokenizer)
        self.mixer: ConflictMixer | None = None
        if mixing is not None and mixing.rate > 0:
            if builder is None:
                raise ValueError(f"Conflict mixing (rate={mixing.rate}) assembles prompts: pass builder=data.builder.")
            self.mixer = ConflictMixer(mixing, backbone, network, builder, self.trie)
        self.steered: SteeredEvaluation | None = None
        self.rows: list[PredictionRow] = []
        self.contributions: list[ClipValues] = []
        self._measured: frozenset[str] = frozenset()
        self._validation: list[tuple[str, bool, float]] = []

    # -- training ---------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Processes start from one seed (their adapters must be equal); from here on their dropout differs."""
        if world_size() > 1:
            torch.manual_seed(torch.initial_seed() + rank())

    def on_train_start(self) -> None:
        """Conflict mixing learns what is usual for each modality (a resumed run takes it from its checkpoint)."""
        if self.mixer is not None and self.mixer.scales is None:
            self.mixer.fit_scales(self._scale_batches(self.mixer.config.scale_clips), gathered)
        self.on_train_epoch_start()  # not called for an epoch that is resumed inside

    def _scale_batches(self, clips: int) -> Iterator[OmniBatch]:
        """This process's part of an even sample of the training clips, encoded."""
        for batch in self.trainer.datamodule.eval_loader("train", at_most=clips):  # type: ignore[attr-defined]
            if batch.data is not None:
                yield self.encoded(batch.to(self.backbone.device))

    def on_train_epoch_start(self) -> None:
        """Adapters train (their dropout is on); the frozen towers stay in evaluation mode."""
        self.network.train()
        self.backbone.towers_eval()

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of the answer tokens, the regularisers of a gate if there is one, and conflict mixing."""
        assert batch.data is not None, "training replaces bad clips, so a batch is never empty"
        data = self.encoded(batch)
        mixed = self.mixer.mix(data, self.global_step) if self.mixer is not None else None
        untouched = Part.of_sampler(data) if mixed is None else mixed.untouched
        # Before any teacher: who listens to the gate takes the first pass of a step for the model's own.
        loss, state, mean = self.answer_step(untouched, batch_idx)
        self.log("train/loss", mean, prog_bar=True, batch_size=untouched.clips)
        regularisers = means(state, untouched)
        if self.mixer is not None and mixed is not None:
            step = self.mixer.step(mixed)
            loss = loss + self.mixer.config.weight * step.loss
            for name, value in step.logs.items():
                self.log(f"train/{name}", value, batch_size=mixed.recombined.clips)
            of_mixed = means(step.state, mixed.recombined)
            regularisers = mean_of_parts(regularisers, untouched.clips, of_mixed, mixed.recombined.clips)
        for name, value in regularisers.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(data))
        return loss + state.penalty(regularisers)

    def answer_step(self, part: Part, batch_idx: int = 0) -> tuple[Tensor, SequenceState, Tensor]:
        """Mean cross-entropy of the answer tokens of the global batch, the state of the pass, and the mean to log."""
        data = part.batch
        embeds, extra = self.backbone.embed(data.input_ids, data.media)
        if getattr(self.backbone.language_model, "gradient_checkpointing", False):
            embeds.requires_grad_(True)  # a checkpointed segment whose inputs need no gradient would give none
        counter = (self.global_step, batch_idx) if self._trainer is not None else (0, batch_idx)
        hidden_keys = dropped_modality(self.backbone, data, modality_draws(part, int(self.run.get("seed", 0)), counter))
        mask = data.attention_mask if hidden_keys is None else causal_mask(data.attention_mask, hidden_keys)
        with sequence_state(self.backbone, roles=data.roles, prompt_mask=data.prompt_mask, hidden=hidden_keys) as state:
            hidden = self.backbone.hidden_states(embeds, mask, data.position_ids, **extra)
        total, count = answer_loss(hidden, self.backbone.lm_head, data.labels)
        loss, mean = mean_loss(total, count, counted=part.counted)
        return loss, state, mean

    def encoded(self, batch: ClipBatch) -> OmniBatch:
        """The batch with encoded media; what was missing from the cache is written to it."""
        assert batch.data is not None
        media = self.backbone.encode(batch.data.media)
        if self.cache is not None and any(batch.cache_names):
            for name, own in zip(batch.cache_names, split_media(media, batch.data), strict=True):
                if name is not None:
                    self.cache.put(name, own)
        return replace(batch.data, media=media)

    def configure_optimizers(self) -> Any:
        """AdamW and a per-step schedule over the trainable parameters."""
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
        self._validation += [(bad.clip.subset, False, float("nan")) for bad in batch.bad]
        if batch.data is None:
            return
        data = self.encoded(batch)
        with self._known(data.clips):
            log_probs = label_log_probs(self.backbone, data, self.trie).log_softmax(-1).cpu()
        for clip, row in zip(data.clips, log_probs, strict=True):
            gold = self.prompt.labels.index(gold_label(clip))
            self._validation.append((clip.subset, int(row.argmax()) == gold, -float(row[gold])))

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss`` and ``val/accuracy``; where there are several subsets, also each one's and their mean."""
        results, self._validation = gathered(self._validation), []
        if not results:
            return
        scored = [loss for _, _, loss in results if loss == loss]
        self.log("val/loss", sum(scored) / max(1, len(scored)), prog_bar=True)
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
        settings = self.answering.contribution
        if settings.enabled:
            self._measured = settings.chosen(self.trainer.datamodule.manifest("test"))  # type: ignore[attr-defined]

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Answer every clip; a clip with bad media is a row without a prediction, so it counts as wrong."""
        self.rows += [self.bad_row(bad) for bad in batch.bad]
        if batch.data is not None:
            data = self.encoded(batch)
            self.rows += self.answer(data)
            with self._known([clip for clip in data.clips if clip.id in self._measured]):
                self.contributions += clip_values(self.backbone, data, self.trie, self._measured)

    def on_test_epoch_end(self) -> None:
        """Every process has answered its share of the clips; each gets all rows."""
        self.rows, self.contributions = gathered(self.rows), gathered(self.contributions)

    def answer(self, data: OmniBatch) -> list[PredictionRow]:
        """Predictions for a batch with encoded media."""
        found = self._unimodal(data) if self.answering.readings else {}
        texts: list[str | None] = [None] * len(data)
        with self._known(data.clips, found):
            distribution = label_log_probs(self.backbone, data, self.trie).softmax(-1).double().cpu()
            if self.answering.method == "generate":
                texts = list(generate_text(self.backbone, data, max_new_tokens=self.answering.max_new_tokens))
        notes = self.steered.note(data.clips) if self.steered is not None else [{} for _ in data.clips]
        readings = {f"p_{name}": value.double().cpu() for name, value in found.items()}
        rows = []
        for index, clip in enumerate(data.clips):
            prediction, reason = self._read(texts[index], distribution[index])
            own: dict[str, Any] = {
                name: value[index].tolist() for name, value in readings.items() if not value[index].isnan().any()
            }
            rows.append(
                PredictionRow(
                    id=clip.id,
                    subset=clip.subset,
                    split=clip.split,
                    label=gold_label(clip),
                    prediction=prediction,
                    unparsed_reason=reason,
                    answer_text=texts[index],
                    distribution=distribution[index].tolist(),
                    video=clip.video,
                    text=clip.text,
                    **own,
                    **notes[index],
                    **self.run,
                )
            )
        return rows

    def _unimodal(self, data: OmniBatch) -> dict[str, Tensor]:
        """What each modality says alone, never steered: late fusion, the control of steering, is made of it."""
        with self.steered.unsteered() if self.steered is not None else nullcontext():
            return unimodal_distributions(self.backbone, data, self.trie)

    def _known(
        self, clips: Sequence[Clip], readings: Mapping[str, Tensor] | None = None
    ) -> AbstractContextManager[None]:
        """Tells an installed steering session what is known about the clips of its passes."""
        return nullcontext() if self.steered is None else self.steered.knowing(clips, readings)

    def _read(self, text: str | None, distribution: Tensor) -> tuple[str | None, str | None]:
        if self.answering.method == "score":
            return self.prompt.labels[int(distribution.argmax())], None
        parsed = parse_answer(
            text,
            self.prompt.labels,
            answer_format=self.prompt.answer_format,
            synonyms=self.prompt.synonyms,
        )
        return parsed.label, parsed.reason

    def bad_row(self, bad: BadClip) -> PredictionRow:
        """The row of a clip that could not be read."""
        clip = bad.clip
        return PredictionRow(
            id=clip.id,
            subset=clip.subset,
            split=clip.split,
            label=gold_label(clip),
            prediction=None,
            unparsed_reason=f"bad media: {bad.cause}",
            video=clip.video,
            text=clip.text,
            **self.run,
        )

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def trainable_names(self) -> set[str]:
        """Names of the parameters that train: all that a checkpoint holds."""
        return set(trained_names(self))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Frozen weights never enter a checkpoint."""
        if self.mixer is not None and self.mixer.scales is not None:
            checkpoint[MIXING_SCALES] = {name: asdict(scale) for name, scale in self.mixer.scales.items()}
        keep = self.trainable_names()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in keep}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Only frozen keys may be missing, and nothing may be foreign."""
        if self.mixer is not None and MIXING_SCALES in checkpoint:
            self.mixer.scales = {name: Scale(**scale) for name, scale in checkpoint[MIXING_SCALES].items()}
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
        return {} if self.mixer is None else {"readings": self.mixer.reader.state_dict()}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Put :meth:`rank_state` back."""
        if self.mixer is not None:
            self.mixer.reader.load_state_dict(state["readings"])


def trained_names(model: nn.Module) -> list[str]:
    """Names of the parameters that train."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def mean_of_parts(first: dict[str, Tensor], n: int, second: dict[str, Tensor], m: int) -> dict[str, Tensor]:
    """Regularisers over ``n + m`` samples that ran in two passes, each a scalar."""
    return {name: (n * value + m * second[name]) / (n + m) for name, value in first.items()}


def means(state: SequenceState, part: Part) -> dict[str, Tensor]:
    """Regularisers of a pass, each a mean over the clips of the global batch."""
    found = state.regularisers(counted=part.counted)
    return {
        name: value.mean() if name in state.over_batch() else mean_of_clips(value, counted=part.counted)
        for name, value in found.items()
    }


def gold_label(clip: Clip) -> str:
    """The label, which every clip of a labelled manifest has (the data module checks it)."""
    assert clip.label is not None
    return clip.label
