"""What a clip of the corpus shows and says: a pure function of (seed, group, index).

A group is one cell of the corpus, such as `train_voice_dominant` or `test_contextual`. Every clip has its own seed
sequence, so neither the corpus size, nor the number of workers, nor an interrupted run ever changes a clip.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from mosear.data.synthetic.clips import Cue
from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.speakers import Speaker, make_speaker
from mosear.data.synthetic.transcripts import compatible, idle_transcript, pair_transcript

NATURAL = (0.25, 1.0)
STRONG = (0.7, 1.0)
WEAK = (0.25, 0.55)
EVEN = (0.6, 0.9)

CONSISTENT_TEXT = (0.6, 0.2, 0.2)
CONFLICT_TEXT = (0.3, 0.4, 0.3)
"""Shares of pair transcripts, idle transcripts and none."""

SPEAKERS = {"train": 60, "val": 20, "test": 30}

CONFLICT_SUBSETS = ("video_aligned", "audio_aligned", "contextual")
MISSING_SUBSETS = ("missing_video", "missing_audio", "missing_text")


@dataclass(frozen=True)
class Group:
    """One cell of the corpus.

    Attributes:
        name: Unique name; also the prefix of its clip ids.
        split: train, val or test.
        subset: Subset as the manifest names it.
        manifest: Name of the manifest that lists it, without suffix; also its folder under `clips/`.
        voice_dominant: Whether a consistent clip has a strong voice and a weak face.
    """

    name: str
    split: str
    subset: str
    manifest: str
    voice_dominant: bool = False


GROUPS: tuple[Group, ...] = (
    Group("train_natural", "train", "consistent", "train_natural"),
    Group("train_voice_dominant", "train", "consistent", "train_voice_dominant", voice_dominant=True),
    *(Group(f"val_{subset}", "val", subset, "val") for subset in ("consistent", *CONFLICT_SUBSETS)),
    *(Group(f"test_{subset}", "test", subset, "test") for subset in ("consistent", *CONFLICT_SUBSETS)),
    *(Group(f"test_{subset}", "test", subset, "test") for subset in MISSING_SUBSETS),
)

MANIFESTS: tuple[str, ...] = tuple(dict.fromkeys(group.manifest for group in GROUPS))


@dataclass(frozen=True)
class ClipPlan:
    """Everything about a clip but its pixels and samples.

    Attributes:
        id: Unique name.
        group: The cell it belongs to.
        label: The true emotion.
        face: Emotion and intensity of the face, or None when the video is missing.
        voice: Emotion and intensity of the voice, or None when the audio is missing.
        text: Transcript, or None.
        text_label: The label when the transcript speaks for it, else None.
        speaker: Who speaks.
        missing: The absent modality, as the manifest lists it.
    """

    id: str
    group: Group
    label: str
    face: Cue | None
    voice: Cue | None
    text: str | None
    text_label: str | None
    speaker: Speaker
    missing: tuple[str, ...]

    @property
    def path(self) -> str:
        """The mp4 file, relative to the corpus root."""
        return f"clips/{self.group.manifest}/{self.id}.mp4"


def clip_rngs(seed: int, group: Group, index: int) -> tuple[np.random.Generator, np.random.Generator]:
    """The clip's own random streams: one for its plan, one for its rendering."""
    # A checksum of the name, not the position in GROUPS: a group added later must not change the others.
    sequence = np.random.SeedSequence([seed, zlib.crc32(group.name.encode()), index])
    plan, rendering = sequence.spawn(2)
    return np.random.default_rng(plan), np.random.default_rng(rendering)


def plan_clip(seed: int, group: Group, index: int) -> ClipPlan:
    """Decides what clip number `index` of a group contains.

    Labels run through the emotions in turn, and conflicting emotions through the other five, so every prefix of a group
    is balanced up to one round.
    """
    rng, _ = clip_rngs(seed, group, index)
    round_number, position = divmod(index, len(EMOTIONS))
    label = EMOTIONS[position]
    other = EMOTIONS[(position + 1 + round_number % (len(EMOTIONS) - 1)) % len(EMOTIONS)]
    speaker = make_speaker(group.split, int(rng.integers(SPEAKERS[group.split])), seed)
    face: Cue
    voice: Cue
    text: str | None
    if group.subset == "contextual":
        # Alternates within a round and swaps with each round: exactly half of the labels are the face's.
        face, voice, text = _contextual(label, other, (position + round_number) % 2 == 0, group.split, rng)
    elif group.subset in CONFLICT_SUBSETS:
        face, voice, text = _aligned(label, other, group.subset == "video_aligned", group.split, rng)
    else:
        face, voice, text = _consistent(label, group, rng)
    missing = (group.subset.removeprefix("missing_"),) if group.subset in MISSING_SUBSETS else ()
    text = None if "text" in missing else text
    return ClipPlan(
        id=f"{group.name}_{index:05d}",
        group=group,
        label=label,
        face=None if "video" in missing else face,
        voice=None if "audio" in missing else voice,
        text=text,
        text_label=label if text is not None and _speaks_for(text, label) else None,
        speaker=speaker,
        missing=missing,
    )


def _consistent(label: str, group: Group, rng: np.random.Generator) -> tuple[Cue, Cue, str | None]:
    """Face and voice show the label; a pair transcript, if any, allows it."""
    face_range, voice_range = (WEAK, STRONG) if group.voice_dominant else (NATURAL, NATURAL)
    face, voice = (label, rng.uniform(*face_range)), (label, rng.uniform(*voice_range))
    others = [emotion for emotion in EMOTIONS if emotion != label]
    pair = (label, others[rng.integers(len(others))])
    # What is left of a clip without one modality must still be able to tell: those always have a pair transcript.
    shares = (1.0, 0.0, 0.0) if group.subset in MISSING_SUBSETS else CONSISTENT_TEXT
    return face, voice, _transcript(pair, shares, group.split, rng)


def _aligned(
    label: str, other: str, face_is_true: bool, split: str, rng: np.random.Generator
) -> tuple[Cue, Cue, str | None]:
    """The label strong in one modality, another emotion weak in the other; the transcript never arbitrates."""
    true_cue, false_cue = (label, rng.uniform(*STRONG)), (other, rng.uniform(*WEAK))
    text = _transcript((label, other), CONFLICT_TEXT, split, rng)
    return (true_cue, false_cue, text) if face_is_true else (false_cue, true_cue, text)


def _contextual(
    label: str, other: str, face_is_true: bool, split: str, rng: np.random.Generator
) -> tuple[Cue, Cue, str]:
    """Two equally strong emotions; the transcript fits the label and not the other one."""
    intensity = rng.uniform(*EVEN)
    thirds = [emotion for emotion in EMOTIONS if emotion not in (label, other)]
    text = pair_transcript((label, thirds[rng.integers(len(thirds))]), split, rng)
    face, voice = (label, other) if face_is_true else (other, label)
    return (face, intensity), (voice, intensity), text


def _transcript(
    pair: tuple[str, str], shares: tuple[float, float, float], split: str, rng: np.random.Generator
) -> str | None:
    """A pair transcript, an idle one or none, with the given shares."""
    pair_share, idle_share, _ = shares
    draw = rng.uniform()
    if draw < pair_share:
        return pair_transcript(pair, split, rng)
    return idle_transcript(split, rng) if draw < pair_share + idle_share else None


def _speaks_for(text: str, label: str) -> bool:
    """Whether a transcript narrows the emotion down to a set that holds the label; an idle one tells nothing."""
    emotions = compatible(text)
    return label in emotions and len(emotions) < len(EMOTIONS)
