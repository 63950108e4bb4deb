"""Conflict mixing: the face of one clip with the voice of another, taught by what each of them shows alone.

Consistent clips say nothing about which modality to believe when the two disagree, so no adapter can learn it from
them. Mixing makes the disagreement and labels it without a human: the target pools what the two sources show, by how
clearly each shows it when it is read alone and by what the transcript supports. The idea is that of MIDAS (Hwang, Choi
and Whang, 2025, arXiv:2509.25831: misaligned samples, labelled by unimodal confidence, with weights for the weak
modality and for hard samples), brought to a frozen omni-modal language model and its distribution over candidate
labels. Nobody says which modality is right in a recombined clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mosear.data.sample import OmniBatch, Sample, SampleBuilder, collate
from mosear.evaluation.scoring import LabelTrie, label_pass
from mosear.roles import TokenRole
from mosear.training.batches import moved, split_samples, without_answer
from mosear.training.mixing_pairs import Sources, draw_sources, recombined_clip
from mosear.training.mixing_target import (
    Scale,
    agreement,
    log_odds,
    mixing_divergence,
    pooled_target,
    reliability,
    sample_weights,
    visual_share,
)
from mosear.training.processes import (
    Part,
    anywhere,
    joined,
    mean_of_clips,
    mean_over_processes,
    share_of,
    world_size,
)
from mosear.training.teacher import UnimodalReader

if TYPE_CHECKING:
    from torch import nn

    from mosear.backbones.backbone import OmniBackbone
    from mosear.experts.state import SequenceState


@dataclass(frozen=True)
class ConflictMixing:
    """Settings of conflict mixing.

        loss = CE(untouched clips) + weight * mean_b m_b KL(q_b || p_b)
        q = w e_V + (1 - w) e_A
        w = sigmoid(sharpness (s_V - s_A) + agreement (a_V - a_A) + visual_prior)

    with ``p`` the model's distribution over the candidate labels, strengths ``s``, agreements ``a`` with the transcript
    (:mod:`mosear.training.mixing_target`) and sample weights ``m`` (all 1 unless one of the last two settings is on).

    Attributes:
        rate: share of a batch's clips that give way to recombined ones, in [0, 1); 0 turns mixing off.
        weight: of the divergence in the loss.
        evidence: e, what a source says. ``label``: the label of the clip it comes from, which a consistent clip's face
            and voice share. ``reading``: what the teacher reads from it alone; needs no labels.
        sharpness: how strictly the clearer source wins; 0 averages.
        agreement: how much a transcript counts that fits one source better than the other; 0 ignores it.
        visual_prior: log-odds in favour of every face. A student reads the faces of new clips less surely than those it
            trained on, more so than voices if its backbone follows the voice; this gives back what that takes away.
            Negative favours voices.
        transcript: what a recombined clip says. ``none``; ``either``: the words of its face's or of its voice's clip;
            ``any``: those, or a third clip's, or none.
        scale: ``training`` compares strengths with what is usual for each modality on training clips: with a model that
            reads voices better, or with clips whose voices are clearer, every voice would win else. ``none`` takes them
            as they are.
        scale_clips: training clips read for that, at the start.
        teacher: who reads the single modalities. ``frozen``: the backbone without the adapter (each clip is read once,
            in its first epoch); ``adapted``: the model as it is now (three more passes over the mixed clips per step).
        weak_modality_weight: see :func:`~mosear.training.mixing_target.sample_weights`; 0 = off.
        hard_sample_weight: see :func:`~mosear.training.mixing_target.sample_weights`; 0 = off.
        seed: of the pairs.
    """

    rate: float = 0.0
    weight: float = 1.0
    evidence: Literal["label", "reading"] = "label"
    sharpness: float = 2.0
    agreement: float = 1.0
    visual_prior: float = 0.0
    transcript: Literal["none", "either", "any"] = "either"
    scale: Literal["training", "none"] = "training"
    scale_clips: int = 300
    teacher: Literal["frozen", "adapted"] = "frozen"
    weak_modality_weight: float = 0.0
    hard_sample_weight: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.rate < 1:
            problems.append(f"rate={self.rate} must be a share of the batch in [0, 1)")
        if not self.weight > 0:
            problems.append(f"weight={self.weight} must be positive")
        if not math.isfinite(self.visual_prior):
            problems.append(f"visual_prior={self.visual_prior} must be a finite number")
        if self.scale_clips < 2:
            problems.append(f"scale_clips={self.scale_clips} must be at least 2")
        for name in ("sharpness", "agreement", "weak_modality_weight", "hard_sample_weight", "seed"):
            if not getattr(self, name) >= 0:
                problems.append(f"{name}={getattr(self, name)} must not be negative")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                problems.append(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}")
        if problems:
            raise ValueError("ConflictMixing: " + "; ".join(problems) + ".")


CHOICES = {
    "evidence": ("label", "reading"),
    "transcript": ("none", "either", "any"),
    "scale": ("training", "none"),
    "teacher": ("frozen", "adapted"),
}


@dataclass(frozen=True)
class Lender:
    """A clip of the batch, and what it has to lend.

    Attributes:
        sample: with encoded media.
        eligible: has picture and sound.
        prompt: tokens of its prompt.
        words: tokens of its transcript line.
        sounds: tokens of its audio.
    """

    sample: Sample
    eligible: bool
    prompt: int
    words: int
    sounds: int


def _on_cpu(lender: Lender) -> Lender:
    """As it travels to other processes; a single one keeps it where it is."""
    return lender if world_size() == 1 else replace(lender, sample=moved(lender.sample, "cpu"))


@dataclass(frozen=True)
class MixedClips:
    """What mixing makes of a batch.

    Attributes:
        untouched: the clips that keep their place, with their answers; this process's part of them.
        recombined: prompts of the recombined clips; this process's part of them.
        faces: per recombined clip, the prompt of the whole clip that lends its face.
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
        self.reader = UnimodalReader(backbone, network, trie, builder.pad_id, frozen=config.teacher == "frozen")
        self.scales: dict[str, Scale] | None = None
        if config.scale == "none":
            self.scales = {"visual": Scale(), "audio": Scale()}

    def mix(self, data: OmniBatch, step: int) -> MixedClips | None:
        """Recombine the global batch, of which ``data`` is this process's share; ``None`` if nobody is recombined.

        Faces and voices of any two processes may meet, so each process gets every clip's encoded media and then takes
        its share of both kinds of clips: one process with the whole batch would make the same ones.

        Args:
            data: with encoded media.
            step: optimiser steps so far.
        """
        lenders = joined([_on_cpu(lender) for lender in self._lenders(data)])
        config = self.config
        sources = draw_sources(
            [index for index, lender in enumerate(lenders) if lender.eligible],
            len(lenders),
            rate=config.rate,
            transcript=config.transcript,
            seed=config.seed,
            step=step,
        )
        sources = self._fitting(lenders, sources)
        if not sources:
            return None
        samples = [lender.sample for lender in lenders]
        taken = {own.face for own in sources}
        kept, kept_counts = share_of([index for index in range(len(samples)) if index not in taken])
        own_sources, mixed_counts = share_of(sources)
        prompts = {
            i: without_answer(samples[i]) for s in own_sources for i in (s.face, s.voice, s.words) if i is not None
        }
        return MixedClips(
            untouched=Part(self._batch([samples[i] for i in kept]), kept_counts, len(samples) - len(taken)),
            recombined=Part(
                self._batch([self.recombine(samples, own) for own in own_sources]), mixed_counts, len(sources)
            ),
            faces=[prompts[own.face] for own in own_sources],
            voices=[prompts[own.voice] for own in own_sources],
            words=[
                None if i is None or samples[i].clip.text is None else prompts[i]
                for i in (s.words for s in own_sources)
            ],
        )

    def _lenders(self, data: OmniBatch) -> list[Lender]:
        both = data.hidden_keys("visual").any(1) & data.hidden_keys("audio").any(1)
        sounds = (data.roles == int(TokenRole.AUDIO)).sum(1)
        facts = torch.stack([both.long(), data.prompt_mask.sum(1), data.transcript.sum(1), sounds], dim=1).tolist()
        return [Lender(s, bool(own[0]), *own[1:]) for s, own in zip(split_samples(data), facts, strict=True)]

    def recombine(self, samples: Sequence[Sample], sources: Sources) -> Sample:
        """The prompt of a clip with one sample's face, another's voice and somebody's words, from encoded media."""
        face, voice = samples[sources.face], samples[sources.voice]
        text = None if sources.words is None else samples[sources.words].clip.text
        # Positions are computed on the CPU; the features stay where they are.
        videos = [replace(video, grid=video.grid.cpu()) for video in face.media.videos]
        return self.builder.build(
            recombined_clip(face.clip, voice.clip, text),
            replace(face.media, videos=videos, audios=voice.media.audios),
        )

    def step(self, mixed: MixedClips) -> MixingStep:
        """Read the single modalities, then score the model on the recombined clips (with gradients)."""
        config, counted = self.config, mixed.recombined.counted
        visual, audio, w = self.target_parts(mixed)
        target = pooled_target(visual, audio, w)
        scores, state = label_pass(self.backbone, mixed.recombined.batch, self.trie)
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
            log_p = self.reader(prompts, modality)
            strengths[modality] = self.scales[modality](self._log_odds(log_p, prompts))
            evidence[modality] = self._evidence(log_p, prompts)
        support: Tensor | float = self.config.visual_prior
        # All processes read transcripts, or none.
        if self.config.agreement and anywhere(any(mixed.words), self.backbone.device):
            p_text = self._transcripts(mixed.words, mixed.faces)
            support = support + self.config.agreement * (
                agreement(evidence["visual"], p_text) - agreement(evidence["audio"], p_text)
            )
        w = reliability(strengths["visual"], strengths["audio"], self.config.sharpness, support)
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
                    odds += [(modality, value) for value in self._log_odds(self.reader(own, modality), own).tolist()]
        found = gather(odds)
        values = {modality: [value for name, value in found if name == modality] for modality in ("visual", "audio")}
        for modality, own_values in values.items():
            if len(own_values) < 2:
                raise ValueError(
                    "mixing.scale=training compares each modality with what is usual in training, but "
                    f"{len(own_values)} of the clips read carry {modality}. Train on clips with picture and sound, or "
                    "without mixing."
                )
        self.scales = {modality: Scale.of(torch.tensor(own)) for modality, own in values.items()}

    def _log_odds(self, log_p: Tensor, prompts: Sequence[Sample]) -> Tensor:
        return log_odds(log_p, self._labels(prompts) if self.config.evidence == "label" else None)

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
            words: per recombined clip, the prompt that lends its words.
            company: prompts to read in vain if this process has no words and another has.
        """
        said = [prompt for prompt in words if prompt is not None]
        read = iter(self.reader(said or company[:1], "text").softmax(-1))
        silent = torch.full((len(self.trie.labels),), float("nan"), device=self.backbone.device)
        return torch.stack([silent if prompt is None else next(read) for prompt in words])

    def _fitting(self, lenders: Sequence[Lender], sources: list[Sources]) -> list[Sources]:
        """Without clips that would be too long, which a long face with a long voice can be."""

        def length(own: Sources) -> int:
            face, voice = lenders[own.face], lenders[own.voice]
            words = 0 if own.words is None else lenders[own.words].words
            return face.prompt - face.sounds - face.words + voice.sounds + words

        return [own for own in sources if length(own) <= self.builder.max_tokens]

    def _batch(self, samples: Sequence[Sample]) -> OmniBatch:
        return collate(samples, self.builder.pad_id).to(self.backbone.device)
