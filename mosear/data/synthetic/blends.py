"""Clips that show one emotion, a blend of two, or none: a corpus for tasks with a set of labels.

    single                  face and voice show one emotion
    blend                   both show the same mixture of two
    none                    both are neutral: the set is empty
    split_over_modalities   the face shows one emotion, the voice another; in the test split alone

The set of a clip holds every emotion but neutral that its face or voice shows. In training, two clips in five are
single, two are blends, and one is neutral. Only face and voice together tell the set of a split clip.
"""

import os
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path

import numpy as np

from mosear.data.clip import Clip, ModalityLabels
from mosear.data.synthetic.clips import FPS, NUM_FRAMES, SAMPLE_RATE
from mosear.data.synthetic.draws import draw_hint, draw_speaker, in_turn
from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.expressions import (
    Mixture,
    draw_parameters,
    render_face_along,
    render_voice_along,
    weights_of,
)
from mosear.data.synthetic.faces import FACE_CUES
from mosear.data.synthetic.flavour import Flavour, Media, ensure, groups_of
from mosear.data.synthetic.plans import Group, clip_rngs
from mosear.data.synthetic.speakers import Speaker
from mosear.data.synthetic.voices import VOICE_CUES

NEUTRAL = EMOTIONS[0]
LABELS = EMOTIONS[1:]
"""What a set may hold."""

TURN = ("single", "blend", "single", "blend", "none")
"""Kinds of five training clips in a row."""
SUBSETS = ("single", "blend", "none", "split_over_modalities")

INTENSITY = (0.8, 1.0)
STRONGER = (0.5, 0.65)
"""Share of the stronger emotion in a blend."""

PAIRS = tuple(combinations(LABELS, 2))
ORDERED_PAIRS = tuple(permutations(LABELS, 2))


@dataclass(frozen=True)
class BlendPlan:
    """Everything about a clip but its pixels and samples.

    Attributes:
        id: Unique name.
        group: The cell it belongs to.
        kind: One of `SUBSETS`.
        face: What the face shows: emotions and their weights.
        voice: What the voice shows.
        text: Transcript, or None.
        text_label: The emotion that the transcript hints at, if it does.
        speaker: Who speaks.
    """

    id: str
    group: Group
    kind: str
    face: Mixture
    voice: Mixture
    text: str | None
    text_label: str | None
    speaker: Speaker

    @property
    def path(self) -> str:
        """The mp4 file, relative to the corpus root."""
        return f"clips/{self.group.manifest}/{self.id}.mp4"

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions of face and voice without neutral, in the order of `EMOTIONS`."""
        shown = {emotion for emotion, _ in (*self.face, *self.voice)}
        return tuple(emotion for emotion in LABELS if emotion in shown)

    @property
    def label(self) -> str:
        """The strongest emotion."""
        return max((*self.face, *self.voice), key=lambda shown: shown[1])[0]


def plan_blend(seed: int, group: Group, index: int) -> BlendPlan:
    """Decides what clip number `index` of a group contains.

    Kinds, emotions and pairs come in turn, so every prefix of a group is balanced up to one round.
    """
    rng, _ = clip_rngs(seed, group, index)
    kind, number = (group.subset, index) if group.subset in SUBSETS else in_turn(TURN, index)
    speaker = draw_speaker(seed, group, rng)
    face_intensity, voice_intensity = rng.uniform(*INTENSITY, size=2)
    face, voice = _shown(kind, number, face_intensity, voice_intensity, rng)
    emotions = [emotion for emotion in EMOTIONS if emotion in dict((*face, *voice))]
    text, text_label = draw_hint(emotions, group.split, rng)
    return BlendPlan(
        id=f"{group.name}_{index:05d}",
        group=group,
        kind=kind,
        face=face,
        voice=voice,
        text=text,
        text_label=text_label,
        speaker=speaker,
    )


def _shown(
    kind: str, number: int, face_intensity: float, voice_intensity: float, rng: np.random.Generator
) -> tuple[Mixture, Mixture]:
    """What face and voice of clip `number` of a kind show."""
    if kind == "split_over_modalities":
        seen, heard = ORDERED_PAIRS[number % len(ORDERED_PAIRS)]
        return ((seen, face_intensity),), ((heard, voice_intensity),)
    shares: Mixture
    if kind == "blend":
        turn, position = divmod(number, len(PAIRS))
        stronger, weaker = PAIRS[position][:: 1 if turn % 2 == 0 else -1]
        share = rng.uniform(*STRONGER)
        shares = ((stronger, share), (weaker, 1.0 - share))
    else:
        shares = ((NEUTRAL if kind == "none" else LABELS[number % len(LABELS)], 1.0),)
    return _scaled(shares, face_intensity), _scaled(shares, voice_intensity)


def _scaled(shares: Mixture, intensity: float) -> Mixture:
    return tuple((emotion, intensity * share) for emotion, share in shares)


def render_blend(plan: BlendPlan, rng: np.random.Generator, size: int) -> Media:
    """Frames and waveform of a clip; face and voice have random streams of their own."""
    face_rng, voice_rng = rng.spawn(2)
    face = draw_parameters(FACE_CUES, weights_of(plan.face)[None], face_rng)
    voice = draw_parameters(VOICE_CUES, weights_of(plan.voice)[None], voice_rng)
    frames = render_face_along(face, plan.speaker, face_rng, num_frames=NUM_FRAMES, size=size)
    seconds = NUM_FRAMES / FPS
    return frames, render_voice_along(voice, plan.speaker, voice_rng, seconds=seconds, rate=SAMPLE_RATE)


def listed_blend(plan: BlendPlan) -> Clip:
    """The clip as the manifest lists it."""
    visual, audio = (max(shown, key=lambda one: one[1])[0] for shown in (plan.face, plan.voice))
    return Clip(
        id=plan.id,
        video=plan.path,
        audio="video",
        text=plan.text,
        label=plan.label,
        labels=plan.labels,
        modality_labels=ModalityLabels(visual=visual, audio=audio, text=plan.text_label),
        subset=plan.kind,
        split=plan.group.split,
        speaker=plan.speaker.id,
    )


BLENDS = Flavour(
    name="blends",
    modules=("draws", "expressions", "blends"),
    groups=groups_of("blends", SUBSETS),
    plan=plan_blend,
    render=render_blend,
    listed=listed_blend,
)


def ensure_blends(
    root: str | os.PathLike[str],
    seed: int = 0,
    train_clips: int = 1200,
    val_clips: int = 300,
    test_clips: int = 300,
    workers: int | None = None,
    size: int = 112,
) -> Path:
    """Makes sure that the corpus of blends stands complete under `root`; see `flavour.ensure`.

    Args:
        root: Folder of the corpus; created if need be.
        seed: Seed of every clip.
        train_clips: Training clips.
        val_clips: Validation clips.
        test_clips: Clips in each test subset.
        workers: Rendering processes; all cores by default. Never changes a clip.
        size: Height and width of the frames.
    """
    sizes = {"train_clips": train_clips, "val_clips": val_clips, "test_clips": test_clips}
    return ensure(BLENDS, root, seed=seed, sizes=sizes, workers=workers, size=size)
