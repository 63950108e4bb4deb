"""Face and voice of one clip as arrays, without a file: for pools that are paired on the fly."""

import numpy as np

from mosear.data.synthetic.faces import render_face
from mosear.data.synthetic.speakers import Speaker
from mosear.data.synthetic.voices import render_voice

Cue = tuple[str, float]
"""An emotion and its intensity."""

NUM_FRAMES = 16
FPS = 8
SAMPLE_RATE = 16_000


def render_clip_arrays(
    face: Cue | None,
    voice: Cue | None,
    speaker: Speaker,
    rng: np.random.Generator,
    *,
    size: int = 112,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Renders the two seconds of a clip.

    Face and voice have their own random streams, so dropping one modality never changes the other.

    Args:
        face: Emotion and intensity of the face, or None for no video.
        voice: Emotion and intensity of the voice, or None for no sound.
        speaker: Who speaks.
        rng: Parent of both random streams.
        size: Height and width of the frames.

    Returns:
        Frames uint8 [16, size, size, 3] or None, and waveform float32 [32000] at 16 kHz or None.
    """
    face_rng, voice_rng = rng.spawn(2)
    frames = audio = None
    if face is not None:
        frames = render_face(*face, speaker, face_rng, num_frames=NUM_FRAMES, size=size)
    if voice is not None:
        audio = render_voice(*voice, speaker, voice_rng, seconds=NUM_FRAMES / FPS, rate=SAMPLE_RATE)
    return frames, audio
