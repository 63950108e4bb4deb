"""Clips whose expression moves from one emotion to another: a corpus for valence and arousal over time.

A clip has weights over the six emotions at every moment, which sum to 1:

    w(t) = (1 - strength(t)) neutral + strength(t) ((1 - s(t)) from + s(t) to)

`s` rises smoothly from 0 to 1, when and how fast is drawn; `strength` swings slowly; both stay in [0, 1].
Face and voice show `w(t)`, and the annotation is where it lies in the plane: `sum_k w_k(t) COORDINATES[k]`.

    moving    from one emotion to another
    still     the same emotion at the same strength for the whole clip
"""

import math
import os
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from mosear.data.clip import Clip, ModalityLabels
from mosear.data.series import series_text
from mosear.data.synthetic.circumplex import PLACES, nearest
from mosear.data.synthetic.clips import FPS, NUM_FRAMES, SAMPLE_RATE
from mosear.data.synthetic.draws import draw_hint, draw_speaker, in_turn
from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.expressions import draw_parameters, render_face_along, render_voice_along, weights_of
from mosear.data.synthetic.faces import FACE_CUES
from mosear.data.synthetic.flavour import Flavour, Media, ensure, groups_of
from mosear.data.synthetic.plans import Group, clip_rngs
from mosear.data.synthetic.speakers import Speaker
from mosear.data.synthetic.voices import VOICE_CUES

RATE = 5
"""Annotated steps per second; also segments of the voice."""
SECONDS = NUM_FRAMES / FPS
STEPS = round(RATE * SECONDS)

TURN = ("moving", "still", "moving")
"""Kinds of three training clips in a row."""
SUBSETS = ("moving", "still")

STRENGTH = (0.7, 0.95)
SWING = 0.15
"""Largest change of the strength, up and down."""
SWING_HZ = (0.2, 0.5)
MOVE_SECONDS = (0.6, 1.6)

GAPS = 0.1
"""Share of the clips in which some steps are not annotated."""
LONGEST_GAP = 4

MOVES = tuple(permutations(EMOTIONS, 2))


@dataclass(frozen=True)
class Course:
    """How a clip's expression moves; see the module docstring.

    Attributes:
        start: Emotion at the beginning.
        end: Emotion at the end; the same one if it stays.
        move_at: Second at which the move begins.
        move_seconds: How long it takes.
        strength: Mean share that is not neutral.
        swing: Largest change of that, up and down.
        swing_hz: How often it swings per second.
        swing_phase: Where the swing begins, in radians.
    """

    start: str
    end: str
    move_at: float
    move_seconds: float
    strength: float
    swing: float
    swing_hz: float
    swing_phase: float

    def weights(self, seconds: np.ndarray) -> np.ndarray:
        """Weights [T, 6] of the emotions at the given times [T]."""
        share = np.clip((seconds - self.move_at) / self.move_seconds, 0.0, 1.0)
        share = share * share * (3.0 - 2.0 * share)
        turn = 2.0 * math.pi * self.swing_hz * seconds + self.swing_phase
        strength = np.clip(self.strength + self.swing * np.sin(turn), 0.0, 1.0)
        start, end, rest = (weights_of(((emotion, 1.0),)) for emotion in (self.start, self.end, EMOTIONS[0]))
        shown = (1.0 - share)[:, None] * start + share[:, None] * end
        return (1.0 - strength)[:, None] * rest + strength[:, None] * shown

    def places(self, seconds: np.ndarray) -> np.ndarray:
        """Valence and arousal [T, 2] at the given times [T]."""
        return self.weights(seconds) @ PLACES


@dataclass(frozen=True)
class ContinuousPlan:
    """Everything about a clip but its pixels and samples.

    Attributes:
        id: Unique name.
        group: The cell it belongs to.
        kind: One of `SUBSETS`.
        course: How the expression moves.
        gap: First step that is not annotated, and how many there are; `(0, 0)` for none.
        text: Transcript, or None.
        text_label: The emotion that the transcript hints at, if it does.
        speaker: Who speaks.
    """

    id: str
    group: Group
    kind: str
    course: Course
    gap: tuple[int, int]
    text: str | None
    text_label: str | None
    speaker: Speaker

    @property
    def path(self) -> str:
        """The mp4 file, relative to the corpus root."""
        return f"clips/{self.group.manifest}/{self.id}.mp4"

    @property
    def series(self) -> np.ndarray:
        """Valence and arousal [STEPS, 2] in the middle of each step, NaN where it is not annotated."""
        values = self.course.places(middles(STEPS)).round(4)
        first, count = self.gap
        values[first : first + count] = math.nan
        return values

    @property
    def label(self) -> str:
        """The emotion next to the mean of the annotated steps."""
        return nearest(np.nanmean(self.series, axis=0))


def middles(parts: int) -> np.ndarray:
    """Seconds [parts] in the middle of each of so many equal parts of a clip."""
    return (np.arange(parts) + 0.5) * (SECONDS / parts)


def plan_continuous(seed: int, group: Group, index: int) -> ContinuousPlan:
    """Decides what clip number `index` of a group contains.

    Kinds, emotions and moves come in turn, so every prefix of a group is balanced up to one round.
    """
    rng, _ = clip_rngs(seed, group, index)
    kind, number = (group.subset, index) if group.subset in SUBSETS else in_turn(TURN, index)
    speaker = draw_speaker(seed, group, rng)
    course = _draw_course(kind, number, rng)
    annotated = rng.uniform() >= GAPS
    length = int(rng.integers(1, LONGEST_GAP + 1))
    gap = (int(rng.integers(STEPS - length + 1)), length)
    emotions = [emotion for emotion in EMOTIONS if emotion in (course.start, course.end)]
    text, text_label = draw_hint(emotions, group.split, rng)
    return ContinuousPlan(
        id=f"{group.name}_{index:05d}",
        group=group,
        kind=kind,
        course=course,
        gap=(0, 0) if annotated else gap,
        text=text,
        text_label=text_label,
        speaker=speaker,
    )


def _draw_course(kind: str, number: int, rng: np.random.Generator) -> Course:
    """How clip `number` of a kind moves."""
    still = kind == "still"
    # A step of seven runs through all thirty moves, so that few clips already begin with every emotion.
    start, end = (EMOTIONS[number % len(EMOTIONS)],) * 2 if still else MOVES[7 * number % len(MOVES)]
    move_seconds = rng.uniform(*MOVE_SECONDS)
    return Course(
        start=start,
        end=end,
        move_at=rng.uniform(0.0, SECONDS - move_seconds),
        move_seconds=move_seconds,
        strength=rng.uniform(*STRENGTH),
        swing=0.0 if still else rng.uniform(0.0, SWING),
        swing_hz=rng.uniform(*SWING_HZ),
        swing_phase=rng.uniform(0.0, 2.0 * math.pi),
    )


def render_continuous(plan: ContinuousPlan, rng: np.random.Generator, size: int) -> Media:
    """Frames and waveform of a clip; face and voice have random streams of their own."""
    face_rng, voice_rng = rng.spawn(2)
    face = draw_parameters(FACE_CUES, plan.course.weights(middles(NUM_FRAMES)), face_rng)
    voice = draw_parameters(VOICE_CUES, plan.course.weights(middles(STEPS)), voice_rng)
    frames = render_face_along(face, plan.speaker, face_rng, num_frames=NUM_FRAMES, size=size)
    return frames, render_voice_along(voice, plan.speaker, voice_rng, seconds=SECONDS, rate=SAMPLE_RATE)


def listed_continuous(plan: ContinuousPlan) -> Clip:
    """The clip as the manifest lists it."""
    label = plan.label
    return Clip(
        id=plan.id,
        video=plan.path,
        audio="video",
        text=plan.text,
        label=label,
        modality_labels=ModalityLabels(visual=label, audio=label, text=plan.text_label),
        subset=plan.kind,
        split=plan.group.split,
        speaker=plan.speaker.id,
        series=series_text(RATE, plan.series),
    )


CONTINUOUS = Flavour(
    name="continuous",
    modules=("circumplex", "draws", "expressions", "continuous"),
    groups=groups_of("continuous", SUBSETS),
    plan=plan_continuous,
    render=render_continuous,
    listed=listed_continuous,
)


def ensure_continuous(
    root: str | os.PathLike[str],
    seed: int = 0,
    train_clips: int = 1200,
    val_clips: int = 300,
    test_clips: int = 300,
    workers: int | None = None,
    size: int = 112,
) -> Path:
    """Makes sure that the corpus of moving expressions stands complete under `root`; see `flavour.ensure`.

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
    return ensure(CONTINUOUS, root, seed=seed, sizes=sizes, workers=workers, size=size)
