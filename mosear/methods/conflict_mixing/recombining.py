"""Clips of a batch put together anew: the face of one with the voice of another, from encoded media."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mosear.data.batches import moved, split_samples
from mosear.data.sample import OmniBatch, Sample, SampleBuilder
from mosear.methods.conflict_mixing.pairs import Sources, draw_sources, recombined_clip
from mosear.methods.processes import joined, rank, world_size
from mosear.roles import TokenRole


@dataclass(frozen=True)
class SourceClip:
    """A clip of the batch, and what a recombined clip could take from it.

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


def source_clips(data: OmniBatch) -> list[SourceClip]:
    """The clips of the global batch, of which ``data`` is this process's share.

    Faces and voices of any two processes may meet, so each process gets every clip's encoded media.
    """
    both = data.hidden_keys("visual").any(1) & data.hidden_keys("audio").any(1)
    sounds = (data.roles == int(TokenRole.AUDIO)).sum(1)
    facts = torch.stack([both.long(), data.prompt_mask.sum(1), data.transcript.sum(1), sounds], dim=1).tolist()
    own = [SourceClip(s, bool(told[0]), *told[1:]) for s, told in zip(split_samples(data), facts, strict=True)]
    return joined([_on_cpu(clip) for clip in own])


def _on_cpu(clip: SourceClip) -> SourceClip:
    """As it travels to other processes; a single one keeps it where it is."""
    return clip if world_size() == 1 else replace(clip, sample=moved(clip.sample, "cpu"))


def drawn_sources(
    clips: Sequence[SourceClip], longest: int, *, rate: float, transcript: str, seed: int, step: int
) -> list[Sources]:
    """:func:`draw_sources` among these clips, without those that would be too long.

    Args:
        clips: the global batch.
        longest: tokens of a sequence at most; a long face with a long voice can be longer.
        rate: see :class:`ConflictMixing`, as the following.
        transcript: whose words.
        seed: of the draws.
        step: optimiser steps so far.
    """
    eligible = [index for index, clip in enumerate(clips) if clip.eligible]
    sources = draw_sources(eligible, len(clips), rate=rate, transcript=transcript, seed=seed, step=step)

    def length(own: Sources) -> int:
        face, voice = clips[own.face], clips[own.voice]
        words = 0 if own.words is None else clips[own.words].words
        return face.prompt - face.sounds - face.words + voice.sounds + words

    return [own for own in sources if length(own) <= longest]


def recombine(builder: SampleBuilder, samples: Sequence[Sample], sources: Sources) -> Sample:
    """The prompt of a clip with one sample's face, another's voice and the words of one, from encoded media."""
    face, voice = samples[sources.face], samples[sources.voice]
    text = None if sources.words is None else samples[sources.words].clip.text
    return builder.build(recombined_clip(face.clip, voice.clip, text), replace(face.media, audios=voice.media.audios))


def with_recombined(data: OmniBatch, builder: SampleBuilder, *, rate: float, seed: int, step: int) -> list[Sample]:
    """This process's clips, of which a share gives its place to recombined ones, whose words are the face's or voice's.

    Args:
        data: with encoded media.
        builder: assembles prompts.
        rate: share of the global batch.
        seed: of the draws.
        step: optimiser steps so far.
    """
    clips = source_clips(data)
    samples = [clip.sample for clip in clips]
    drawn = drawn_sources(clips, builder.max_tokens, rate=rate, transcript="either", seed=seed, step=step)
    places = {own.face: own for own in drawn}
    device = data.input_ids.device
    return [
        moved(recombine(builder, samples, places[place]) if place in places else samples[place], device)
        for place in range(rank(), len(samples), world_size())
    ]
