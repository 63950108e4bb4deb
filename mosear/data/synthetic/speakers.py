"""Invented speakers: how a person looks and sounds whatever they feel."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]

SPLITS: tuple[str, ...] = ("train", "val", "test", "pretrain", "pretrain_val")

SKIN_COLOURS: tuple[Colour, ...] = (
    (255, 224, 196),
    (243, 201, 165),
    (226, 176, 134),
    (198, 142, 100),
    (160, 108, 74),
    (122, 80, 56),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (34, 28, 28),
    (70, 44, 30),
    (112, 70, 38),
    (176, 126, 66),
    (150, 62, 36),
    (130, 130, 136),
)
SHIRT_COLOURS: tuple[Colour, ...] = ((64, 98, 150), (150, 76, 82), (74, 128, 98), (108, 84, 140), (90, 96, 104))
HAIR_STYLES = 3


@dataclass(frozen=True)
class Speaker:
    """One invented person.

    Attributes:
        id: Unique name, `<split>-<index>`.
        skin: Skin colour, RGB.
        hair: Hair and brow colour, RGB.
        shirt: Shirt colour, RGB.
        hair_style: 0 short, 1 bob, 2 parted.
        face_width: Width of the head relative to the average.
        brow_offset: Shift of the brow height, in cue parameter units.
        mouth_offset: Shift of the mouth width, in cue parameter units.
        pitch_hz: Pitch of the resting voice.
        formant_scale: Formants relative to the average; follows the pitch, so that a listener can tell a low voice
            from a speaker whose voice is low now.
        loudness_db: Level of the resting voice relative to the average.
    """

    id: str
    skin: Colour
    hair: Colour
    shirt: Colour
    hair_style: int
    face_width: float
    brow_offset: float
    mouth_offset: float
    pitch_hz: float
    formant_scale: float
    loudness_db: float


def make_speaker(split: str, index: int, seed: int) -> Speaker:
    """Draws speaker number `index` of a split: a pure function of its arguments.

    Speakers of different splits differ in id and in every drawn trait, so no test speaker is ever seen in training.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; use one of {', '.join(SPLITS)}.")
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 0x5BEA])
    skin = SKIN_COLOURS[rng.integers(len(SKIN_COLOURS))]
    hair = HAIR_COLOURS[rng.integers(len(HAIR_COLOURS))]
    shirt = SHIRT_COLOURS[rng.integers(len(SHIRT_COLOURS))]
    pitch_semitones = rng.uniform(-3.0, 3.0)
    return Speaker(
        id=f"{split}-{index:03d}",
        skin=_vary(skin, rng),
        hair=_vary(hair, rng),
        shirt=_vary(shirt, rng),
        hair_style=int(rng.integers(HAIR_STYLES)),
        face_width=float(rng.uniform(0.93, 1.07)),
        brow_offset=float(rng.normal(0.0, 0.08)),
        mouth_offset=float(rng.normal(0.0, 0.08)),
        pitch_hz=float(165.0 * 2.0 ** (pitch_semitones / 12.0)),
        formant_scale=float(2.0 ** (pitch_semitones / 18.0) * rng.uniform(0.98, 1.02)),
        loudness_db=float(rng.normal(0.0, 0.5)),
    )


def _vary(colour: Colour, rng: np.random.Generator) -> Colour:
    """The colour, each channel moved a little, so that two speakers of one palette entry still differ."""
    red, green, blue = np.clip(np.array(colour) + rng.integers(-8, 9, size=3), 0, 255).tolist()
    return red, green, blue
