"""Which clips conflict mixing recombines: drawn from (seed, step), whatever the number of processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mosear.data.clip import Clip, reason_text

STREAM = 0x4D4958
"""Keeps the draws of pairs apart from other generators that are seeded with the run's seed and a counter."""


@dataclass(frozen=True)
class Sources:
    """Positions in a batch: of the face (whose clip gives its place away), of the voice and of the words."""

    face: int
    voice: int
    words: int | None


def draw_sources(
    eligible: Sequence[int], batch_size: int, *, rate: float, transcript: str, seed: int, step: int
) -> list[Sources]:
    """Which clips are recombined with which: a function of its arguments, whatever the process.

    ``rate * batch_size`` clips on average (never all of a batch) give their faces; their voices come from a random
    cycle over the eligible clips, so no clip keeps its own voice and no voice is used twice. The optimiser's step is
    the counter, not the micro-batch: accumulated batches draw the same.

    Args:
        eligible: positions of clips with picture and sound.
        batch_size: clips of the global batch.
        rate: see :class:`ConflictMixing`.
        transcript: see :class:`ConflictMixing`.
        seed: see :class:`ConflictMixing`.
        step: optimiser steps so far.
    """
    if len(eligible) < 2:
        return []
    generator = np.random.default_rng([STREAM, seed, step])
    count = int(rate * batch_size + generator.random())  # rounds up as often as the fraction says
    order = [int(index) for index in generator.permutation(np.asarray(eligible))]
    count = min(count, len(order), batch_size - 1)
    drawn = []
    for i in range(count):
        face, voice = order[i], order[(i + 1) % len(order)]
        options = WORDS[transcript]
        choice = options[int(generator.integers(len(options)))]
        third = int(generator.integers(batch_size))
        drawn.append(Sources(face, voice, {"face": face, "voice": voice, "third": third}.get(choice)))
    return drawn


WORDS = {"none": ("none",), "either": ("face", "voice"), "any": ("face", "voice", "third", "none")}
"""Whose words a recombined clip may have, each as often as the others."""


def recombined_clip(face: Clip, voice: Clip, text: str | None) -> Clip:
    """A clip with the picture of ``face`` and the sound of ``voice``, without a label.

    Its reason and cues are put together from theirs; words of a third clip have none.
    """
    cues = {
        "video": face.cue_phrases["video"],
        "audio": voice.cue_phrases["audio"],
        "text": next((clip.cue_phrases["text"] for clip in (face, voice) if text and clip.text == text), []),
    }
    told = any(cues.values())
    return Clip(
        id=f"{face.id}+{voice.id}",
        video=face.video,
        audio=voice.video if voice.audio == "video" else voice.audio,
        text=text,
        split=face.split,
        reason=reason_text(cues) if told else None,
        cues=json.dumps(cues) if told else None,
    )
