"""Where the emotions lie in the plane of valence and arousal."""

from collections.abc import Mapping

import numpy as np

from mosear.data.synthetic.emotions import EMOTIONS

COORDINATES: Mapping[str, tuple[float, float]] = {
    "neutral": (0.0, 0.0),
    "angry": (-0.6, 0.7),
    "happy": (0.8, 0.4),
    "sad": (-0.7, -0.5),
    "worried": (-0.5, 0.4),
    "surprise": (0.3, 0.8),
}
"""Valence and arousal of each emotion, in the order of `EMOTIONS`."""

PLACES = np.array([COORDINATES[emotion] for emotion in EMOTIONS])
"""The same as an array [6, 2]."""


def nearest(values: np.ndarray) -> str:
    """The emotion next to a point [2] of valence and arousal; of equally near ones the first."""
    return EMOTIONS[int(((PLACES - values) ** 2).sum(axis=1).argmin())]
