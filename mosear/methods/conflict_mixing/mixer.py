"""Recombines clips of a batch and scores the model on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mosear.backbones.labels import LabelTrie
from mosear.backbones.sequences import SequenceState
from mosear.data.batches import split_samples, without_answer
from mosear.data.sample import OmniBatch, Sample, SampleBuilder, collate
from mosear.inference.distributions import log_odds
from mosear.inference.prompts import Prompts
from mosear.inference.scoring import label_pass
from mosear.methods.conflict_mixing.recombining import drawn_sources, recombine, source_clips
from mosear.methods.conflict_mixing.target import (
    Scale,
    agreement,
    mixing_divergence,
    pooled_target,
    sample_weights,
    visual_share,
    visual_weight,
)
from mosear.methods.conflict_mixing.teacher import Teacher
from mosear.methods.processes import (
    Part,
    anywhere,
    mean_of_clips,
    mean_over_processes,
    share_of,
)

if TYPE_CHECKING:
    from torch import nn

    from mosear.backbones.backbone import OmniBackbone
    from mosear.methods.conflict_mixing.method import ConflictMixing


@dataclass(frozen=True)
class MixedClips:
    """What mixing makes of a batch.

    Attributes:
        untouched: the clips that keep their place, with their answers; this process's part of them.
        recombined: prompts of the recombined clips; this process's part of them.
        faces: per recombined clip, the prompt of the whole clip that its face comes from.
        voices: the same for its voice.
        words: the same for its transcript; ``None`` where it has none.
    """

    untouched: Part
    recombined: Part
    faces: list[Sample]
    voices: list[Sample]
    words: list[Sample | None]


@dataclass(frozen=True)
class MixingStep:
    """Outcome of the recombined part of a step.

    Attributes:
        loss: weighted mean divergence (not yet times :attr:`ConflictMixing.weight`).
        logs: what to log, by name.
        state: the pass, for a gate's regularisers.
    """

    loss: Tensor
    logs: Mapping[str, Tensor]
    state: SequenceState


class ConflictMixer:
    """Recombines clips of a batch and scores the model on them.

    Args:
        config: the settings.
        backbone: the model in training.
        network: the PEFT model around it (a frozen teacher disables its adapter).
        builder: assembles the prompts of recombined clips.
        trie: the candidate labels.

    Attributes:
        scales: what strengths are compared with, by modality; see :attr:`ConflictMixing.scale`.
    """

    def __init__(
        self,
        config: ConflictMixing,
        backbone: OmniBackbone,
        network: nn.Module,
        builder: SampleBuilder,
        trie: LabelTrie,
    ) -> None:
        self.config, self.backbone, self.builder, self.trie = config, backbone, builder, trie
        self.teacher = Teacher(backbone, network, trie, builder.pad_id, frozen=config.teacher == "frozen")
        self.scales: dict[str, Scale] | None = None
        if config.scale == "none":
            self.scales = {"visual": Scale(), "audio": Scale()}

    def mix(self, data: OmniBatch, step: int) -> MixedClips | None:
        """Recombine the global batch, of which ``data`` is this process's share; ``None`` if no clip is recombined.

        Faces and voices of any two processes may meet, so each process gets every clip's encoded media and then takes
        its share of both kinds of clips: one process with the whole batch would make the same ones.

        Args:
            data: with encoded media.
            step: optimiser steps so far.
        """
        clips, config = source_clips(data), self.config
        sources = drawn_sources(
            clips,
            self.builder.max_tokens,
            rate=config.rate,
            transcript=config.transcript,
            seed=config.seed,
            step=step,
        )
        if not sources:
            return None
        samples = [clip.sample for clip in clips]
        taken = {own.face for own in sources}
        kept, kept_counts = share_of([index for index in range(len(samples)) if index not in taken])
        own_sources, mixed_counts = share_of(sources)
        prompts = {
            i: without_answer(samples[i]) for s in own_sources for i in (s.face, s.voice, s.words) if i is not None
        }
        return MixedClips(
            untouched=Part(self._batch([samples[i] for i in kept]), kept_counts, len(samples) - len(taken)),
            recombined=Part(
                self._batch([recombine(self.builder, samples, own) for own in own_sources]), mixed_counts, len(sources)
            ),
            faces=[prompts[own.face] for own in own_sources],
            voices=[prompts[own.voice] for own in own_sources],
            words=[
                None if i is None or samples[i].clip.text is None else prompts[i]
                for i in (s.words for s in own_sources)
            ],
        )

    def step(self, mixed: MixedClips) -> MixingStep:
        """Read the single modalities, then score the model on the recombined clips (with gradients)."""
        config, counted = self.config, mixed.recombined.counted
        visual, audio, w = self.target_parts(mixed)
        target = pooled_target(visual, audio, w)
        prompts = Prompts.of(self.backbone, mixed.recombined.batch)
        scores, state = label_pass(self.backbone.model, self.backbone.language_model, prompts, self.trie)
        log_p = scores.log_softmax(-1)
        student = log_p.detach().exp()
        weights = sample_weights(
            student,
            target,
            visual,
            audio,
            w,
            weak_modality=config.weak_modality_weight,
            hard_sample=config.hard_sample_weight,
            counted=counted,
        )
        divergence = weights * mixing_divergence(log_p, target)
        logs = {
            "mixing_loss": mean_over_processes(divergence.detach(), counted=counted),
            "mixing_visual_share": mean_over_processes(w, counted=counted),
            "mixing_student_visual_share": visual_share(student, visual, audio, counted=counted),
        }
        return MixingStep(mean_of_clips(divergence, counted=counted), logs, state)

    def target_parts(self, mixed: MixedClips) -> tuple[Tensor, Tensor, Tensor]:
        """``e_V [B, C]``, ``e_A [B, C]`` and ``w [B]`` of :class:`ConflictMixing`."""
        assert self.scales is not None, "scales are fitted before the first step"
        strengths, evidence = {}, {}
        for modality, prompts in (("visual", mixed.faces), ("audio", mixed.voices)):
            log_p = self.teacher(prompts, modality)
            strengths[modality] = self.scales[modality](self._log_odds(log_p, prompts))
            evidence[modality] = self._evidence(log_p, prompts)
        support: Tensor | float = self.config.visual_prior
        # All processes read transcripts, or none.
        if self.config.agreement and anywhere(any(mixed.words), self.backbone.device):
            p_text = self._transcripts(mixed.words, mixed.faces)
            support = support + self.config.agreement * (
                agreement(evidence["visual"], p_text) - agreement(evidence["audio"], p_text)
            )
        w = visual_weight(strengths["visual"], strengths["audio"], self.config.sharpness, support)
        return evidence["visual"], evidence["audio"], w

    def fit_scales(self, batches: Iterable[OmniBatch], gather: Callable[[list[Any]], list[Any]]) -> None:
        """Learn what is usual for each modality from training clips, with encoded media.

        Args:
            batches: prompts; those of this process.
            gather: joins the lists of all processes.
        """
        odds: list[tuple[str, float]] = []
        for batch in batches:
            prompts = [without_answer(sample) for sample in split_samples(batch)]
            for modality in ("visual", "audio"):
                has = batch.hidden_keys(modality).any(1).tolist()
                own = [prompt for prompt, present in zip(prompts, has, strict=True) if present]
                if own:
                    odds += [(modality, value) for value in self._log_odds(self.teacher(own, modality), own).tolist()]
        found = gather(odds)
        values = {modality: [value for name, value in found if name == modality] for modality in ("visual", "audio")}
        for modality, own_values in values.items():
            if len(own_values) < 2:
                raise ValueError(
                    "method.scale=training compares each modality with what is usual in training, but "
                    f"{len(own_values)} of the clips read carry {modality}. Train on clips with picture and sound, or "
                    "with method=answer_tuning."
                )
        self.scales = {modality: Scale.of(torch.tensor(own)) for modality, own in values.items()}

    def _log_odds(self, log_p: Tensor, prompts: Sequence[Sample]) -> Tensor:
        return log_odds(log_p, self._labels(prompts) if self.config.evidence == "label" else log_p.argmax(-1))

    def _evidence(self, log_p: Tensor, prompts: Sequence[Sample]) -> Tensor:
        if self.config.evidence == "reading":
            return log_p.softmax(-1)
        return one_hot(self._labels(prompts), len(self.trie.labels)).to(log_p)

    def _labels(self, prompts: Sequence[Sample]) -> Tensor:
        labels = [self.trie.labels.index(str(prompt.clip.label)) for prompt in prompts]
        return torch.tensor(labels, device=self.backbone.device)

    def _transcripts(self, words: Sequence[Sample | None], company: Sequence[Sample]) -> Tensor:
        """What the teacher reads from the words alone: ``[B, C]``, NaN rows where there are none.

        Args:
            words: per recombined clip, the prompt that its words come from.
            company: prompts to read, and drop, if this process has no words and another has.
        """
        said = [prompt for prompt in words if prompt is not None]
        read = iter(self.teacher(said or company[:1], "text").softmax(-1))
        silent = torch.full((len(self.trie.labels),), float("nan"), device=self.backbone.device)
        return torch.stack([silent if prompt is None else next(read) for prompt in words])

    def _batch(self, samples: Sequence[Sample]) -> OmniBatch:
        return collate(samples, self.builder.pad_id).to(self.backbone.device)
