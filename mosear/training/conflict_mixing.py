"""Conflict mixing: the face of one clip with the voice of another, taught by what each of them says alone.

Consistent clips say nothing about which modality to believe when the two disagree, so no adapter can learn it from
them. Mixing makes the disagreement and labels it without a human: the target pools the two unimodal readings by their
confidence. The idea is that of MIDAS (Hwang, Choi and Whang, 2025, arXiv:2509.25831: misaligned samples, labelled by
unimodal confidence, with weights for the weak modality and for hard samples), brought to a frozen omni-modal language
model and its distribution over candidate labels. No label of a recombined clip is ever needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from mosear.data.clip import Clip
from mosear.data.sample import OmniBatch, Sample, SampleBuilder, collate
from mosear.evaluation.scoring import LabelTrie
from mosear.roles import TokenRole
from mosear.training.batches import split_samples, without_answer
from mosear.training.label_passes import UnimodalReader, one_pass_log_probs
from mosear.training.mixing_target import (
    mixing_divergence,
    pooled_target,
    reliability,
    sample_weights,
    visual_share,
)

if TYPE_CHECKING:
    from torch import nn

    from mosear.backbones.backbone import OmniBackbone
    from mosear.experts.state import SequenceState

STREAM = 0x4D4958
"""Keeps the draws of pairs apart from other generators that are seeded with the run's seed and a counter."""


@dataclass(frozen=True)
class ConflictMixing:
    """Settings of conflict mixing.

        loss = CE(untouched clips) + weight * mean_b m_b KL(q_b || p_b)

    with ``p`` the model's distribution over the candidate labels, ``q`` of :func:`~mosear.training.mixing_target`'s
    ``pooled_target`` and sample weights ``m`` (all 1 unless one of the last two settings is on).

    Attributes:
        rate: share of a batch's clips that give way to recombined ones, in [0, 1); 0 turns mixing off.
        weight: of the divergence in the loss.
        sharpness: k in w = c_V^k / (c_V^k + c_A^k), the face's weight; 0 averages, large values pick the more
            confident reading.
        teacher: who reads the single modalities. ``frozen``: the backbone without the adapter (each clip is read once,
            in its first epoch); ``adapted``: the model as it is now (two more passes over the mixed clips per step).
        visual_temperature: calibrates the face's readings, softmax(log p / T), before their confidence is taken.
        audio_temperature: the same for the voice.
        keep_transcript: ``never``, or ``agree``: a recombined clip keeps the face's transcript if both clips have the
            same label. That rule, alone in mixing, reads labels; those of training clips.
        weak_modality_weight: see :func:`~mosear.training.mixing_target.sample_weights`; 0 = off.
        hard_sample_weight: see :func:`~mosear.training.mixing_target.sample_weights`; 0 = off.
        seed: of the pairs.
    """

    rate: float = 0.0
    weight: float = 0.5
    sharpness: float = 8.0
    teacher: Literal["frozen", "adapted"] = "frozen"
    visual_temperature: float = 1.0
    audio_temperature: float = 1.0
    keep_transcript: Literal["never", "agree"] = "never"
    weak_modality_weight: float = 0.0
    hard_sample_weight: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.rate < 1:
            problems.append(f"rate={self.rate} must be a share of the batch in [0, 1)")
        for name in ("weight", "visual_temperature", "audio_temperature"):
            if not getattr(self, name) > 0:
                problems.append(f"{name}={getattr(self, name)} must be positive")
        for name in ("sharpness", "weak_modality_weight", "hard_sample_weight", "seed"):
            if not getattr(self, name) >= 0:
                problems.append(f"{name}={getattr(self, name)} must not be negative")
        if self.teacher not in ("frozen", "adapted"):
            problems.append(f"teacher={self.teacher!r} must be 'frozen' or 'adapted'")
        if self.keep_transcript not in ("never", "agree"):
            problems.append(f"keep_transcript={self.keep_transcript!r} must be 'never' or 'agree'")
        if problems:
            raise ValueError("ConflictMixing: " + "; ".join(problems) + ".")


@dataclass(frozen=True)
class Pair:
    """Positions in a batch: who lends the face (and gives its place away), and who lends the voice."""

    face: int
    voice: int


@dataclass(frozen=True)
class MixedClips:
    """What mixing makes of a batch.

    Attributes:
        untouched: the clips that keep their place, with their answers.
        recombined: prompts of the recombined clips.
        faces: per recombined clip, the prompt of the whole clip that lends its face.
        voices: per recombined clip, the prompt of the whole clip that lends its voice.
    """

    untouched: OmniBatch
    recombined: OmniBatch
    faces: list[Sample]
    voices: list[Sample]


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

    def mix(self, data: OmniBatch, step: int) -> MixedClips | None:
        """Recombine a batch with encoded media; ``None`` if this step leaves it alone."""
        both = data.hidden_keys("visual").any(1) & data.hidden_keys("audio").any(1)
        eligible = both.nonzero().flatten().tolist()
        pairs = draw_pairs(eligible, len(data), rate=self.config.rate, seed=self.config.seed, step=step)
        pairs = self._fitting(data, pairs)
        if not pairs:
            return None
        samples = split_samples(data)
        taken = {pair.face for pair in pairs}
        kept = [sample for index, sample in enumerate(samples) if index not in taken]
        mixed = [self.recombine(samples[pair.face], samples[pair.voice]) for pair in pairs]
        return MixedClips(
            untouched=self._batch(kept),
            recombined=self._batch(mixed),
            faces=[without_answer(samples[pair.face]) for pair in pairs],
            voices=[without_answer(samples[pair.voice]) for pair in pairs],
        )

    def recombine(self, face: Sample, voice: Sample) -> Sample:
        """The prompt of a clip with one sample's face and the other's voice, from their encoded media."""
        clip = recombined_clip(face.clip, voice.clip, self.config.keep_transcript)
        # Positions are computed on the CPU; the features stay where they are.
        videos = [replace(video, grid=video.grid.cpu()) for video in face.media.videos]
        return self.builder.build(clip, replace(face.media, videos=videos, audios=voice.media.audios))

    def step(self, mixed: MixedClips) -> MixingStep:
        """Read the single modalities, then score the model on the recombined clips (with gradients)."""
        config = self.config
        p_visual = (self.reader(mixed.faces, "visual") / config.visual_temperature).softmax(-1)
        p_audio = (self.reader(mixed.voices, "audio") / config.audio_temperature).softmax(-1)
        w = reliability(p_visual, p_audio, config.sharpness)
        target = pooled_target(p_visual, p_audio, w)
        scores, state = one_pass_log_probs(self.backbone, mixed.recombined, self.trie)
        log_p = scores.log_softmax(-1)
        weights = sample_weights(
            log_p.detach().exp(),
            target,
            p_visual,
            p_audio,
            w,
            weak_modality=config.weak_modality_weight,
            hard_sample=config.hard_sample_weight,
        )
        loss = (weights * mixing_divergence(log_p, target)).mean()
        logs = {
            "mixing_loss": loss.detach(),
            "mixing_visual_share": w.mean(),
            "mixing_student_visual_share": visual_share(log_p.detach().exp(), p_visual, p_audio),
        }
        return MixingStep(loss, logs, state)

    def _fitting(self, data: OmniBatch, pairs: list[Pair]) -> list[Pair]:
        """Without pairs that would be too long, which a long face with a long voice can be."""
        if not pairs:
            return pairs
        prompts = data.prompt_mask.sum(1).tolist()
        sounds = (data.roles == int(TokenRole.AUDIO)).sum(1).tolist()
        longest = self.builder.max_tokens
        return [p for p in pairs if prompts[p.face] - sounds[p.face] + sounds[p.voice] <= longest]

    def _batch(self, samples: Sequence[Sample]) -> OmniBatch:
        return collate(samples, self.builder.pad_id).to(self.backbone.device)


def draw_pairs(eligible: Sequence[int], batch_size: int, *, rate: float, seed: int, step: int) -> list[Pair]:
    """Who is recombined with whom: a function of its arguments, whatever the process.

    ``rate * batch_size`` clips on average (never all of a batch) lend their faces; their voices come from a random
    cycle over the eligible clips, so nobody keeps its own voice and no voice is used twice. The optimiser's step is
    the counter, not the micro-batch: two processes, and two accumulated batches on one process, draw the same.

    Args:
        eligible: positions of clips with picture and sound.
        batch_size: clips of the batch.
        rate: see :class:`ConflictMixing`.
        seed: see :class:`ConflictMixing`.
        step: optimiser steps so far.
    """
    if len(eligible) < 2:
        return []
    generator = np.random.default_rng([STREAM, seed, step])
    count = int(rate * batch_size + generator.random())  # rounds up as often as the fraction says
    order = [int(index) for index in generator.permutation(np.asarray(eligible))]
    count = min(count, len(order), batch_size - 1)
    return [Pair(order[i], order[(i + 1) % len(order)]) for i in range(count)]


def recombined_clip(face: Clip, voice: Clip, keep_transcript: str) -> Clip:
    """A clip with the picture of ``face`` and the sound of ``voice``, without a label."""
    keep = keep_transcript == "agree" and face.label is not None and face.label == voice.label
    return Clip(
        id=f"{face.id}+{voice.id}",
        video=face.video,
        audio=voice.video if voice.audio == "video" else voice.audio,
        text=face.text if keep else None,
        split=face.split,
    )
