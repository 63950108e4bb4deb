"""Faces and voices that show any mixture of emotions, constant or over time.

`render_face` and `render_voice` draw parameters for one emotion and keep them for the whole clip. Here a clip shows
weights `w` over the six emotions, one row for all of it or one per step:

    z      = w + CUE_NOISE * N(0, I_6)          noise is drawn once per clip
    params = centroid + z @ (prototypes - centroid)

Shapes and sounds come from the functions of `faces` and `voices`. Those modules stay as they are, private names
included: their code is part of the identity of every corpus that was rendered with them (`generator_hash`).
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np

from mosear.data.synthetic import faces, voices
from mosear.data.synthetic.emotions import CUE_NOISE, EMOTIONS, PARAMETER_LIMIT, CueSpace, emotion_index
from mosear.data.synthetic.faces import FACE_CUES
from mosear.data.synthetic.speakers import Speaker
from mosear.data.synthetic.voices import VOICE_CUES

Mixture = tuple[tuple[str, float], ...]
"""Emotions and their weights; what they lack to a sum of 1 is an uninformative blend."""


def weights_of(mixture: Mixture) -> np.ndarray:
    """The weights [6] in the order of `EMOTIONS`."""
    weights = np.zeros(len(EMOTIONS))
    for emotion, weight in mixture:
        weights[emotion_index(emotion)] += weight
    return weights


def draw_parameters(space: CueSpace, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws the parameters [K, D] for weights [K, 6]; see the module docstring for the equation."""
    if weights.min() < 0.0 or weights.sum(axis=1).max() > 1.0 + 1e-9:
        raise ValueError(f"Weights of emotions must be at least 0 and sum to at most 1, got {weights.tolist()}.")
    mixtures = weights + CUE_NOISE * rng.standard_normal(len(EMOTIONS))
    return np.clip(space.centroid + mixtures @ space.directions, -PARAMETER_LIMIT, PARAMETER_LIMIT)


def render_face_along(
    parameters: np.ndarray, speaker: Speaker, rng: np.random.Generator, *, num_frames: int = 16, size: int = 112
) -> np.ndarray:
    """Renders a face with given parameters.

    Args:
        parameters: [T, D], one row per frame, or [1, D] for all of them, without the speaker's offsets.
        speaker: Whose face it is.
        rng: Source of every random choice.
        num_frames: Frames T, spread evenly over the two seconds.
        size: Height and width in pixels.

    Returns:
        Frames, uint8 [T, size, size, 3].
    """
    named = [FACE_CUES.named(row) for row in parameters]
    for each in named:
        each["brow_height"] += speaker.brow_offset
        each["mouth_width"] += speaker.mouth_offset
    if len(named) == 1:
        return _drawn(named[0], faces._draw_pose(named[0], num_frames, rng), speaker, rng, size)
    if len(named) != num_frames:
        raise ValueError(f"A face of {num_frames} frames needs one row of parameters, or as many; got {len(named)}.")
    # The same draws for every frame, so that only what follows from the parameters changes.
    before = deepcopy(rng)
    poses = [faces._draw_pose(each, num_frames, rng if at == 0 else deepcopy(before)) for at, each in enumerate(named)]
    frames = [
        _drawn(each, _at_frame(pose, frame), speaker, rng, size)
        for frame, (each, pose) in enumerate(zip(named, poses, strict=True))
    ]
    return np.concatenate(frames)


def _at_frame(pose: faces._Pose, frame: int) -> faces._Pose:
    """The pose of one frame alone."""
    over_time = ("centre_x", "centre_y", "look_x", "look_y", "roll", "blink")
    return replace(pose, **{name: getattr(pose, name)[frame : frame + 1] for name in over_time})


def _drawn(
    parameters: dict[str, float], pose: faces._Pose, speaker: Speaker, rng: np.random.Generator, size: int
) -> np.ndarray:
    """The frames of a pose, as `render_face` draws them."""
    canvas = faces._Canvas(pose, size)
    faces._draw_head(canvas, speaker)
    faces._draw_eyes(canvas, parameters, speaker)
    faces._draw_brows(canvas, parameters, speaker)
    faces._draw_mouth(canvas, parameters)
    return canvas.expose(rng)


def render_voice_along(
    parameters: np.ndarray, speaker: Speaker, rng: np.random.Generator, *, seconds: float = 2.0, rate: int = 16000
) -> np.ndarray:
    """Renders a voice with given parameters, which are interpolated from one segment's middle to the next.

    Args:
        parameters: [K, D] for K segments of equal length.
        speaker: Whose voice it is.
        rng: Source of every random choice.
        seconds: Length.
        rate: Samples per second.

    Returns:
        Mono waveform, float32 [seconds * rate] in [-1, 1].
    """
    count = round(seconds * rate)
    # Where each sample lies between the segments: 0 at the middle of the first, K - 1 at that of the last.
    place = np.clip(np.arange(count) / count * len(parameters) - 0.5, 0.0, len(parameters) - 1.0)
    over_time = {
        name: np.interp(place, np.arange(len(parameters)), column)
        for name, column in zip(VOICE_CUES.names, parameters.T, strict=True)
    }
    pitch = _pitch_contour(over_time, speaker, seconds, rate, rng)
    envelope, vowel_share = _syllables(over_time, rate, rng)
    brightness = parameters[:, VOICE_CUES.names.index("brightness")]
    source = _faded([voices._glottal_source({"brightness": b}, pitch, rate) for b in brightness], place) * envelope
    breath = rng.standard_normal(count, dtype=np.float32) * envelope
    # `_speak` takes one strength of breath: the full one here, and the course of it in the noise itself.
    breath = breath * np.maximum(0.5 + 0.5 * over_time["breath"], 0.0) ** 1.5
    voice = voices._speak(source, breath, vowel_share, {"breath": 1.0}, speaker, rate, rng)
    level_db = voices.ENERGY_DB * over_time["energy"] + speaker.loudness_db
    level_db = level_db + rng.normal(0.0, voices.MICROPHONE_JITTER_DB)
    voice = voice * (voices.BASE_RMS * 10.0 ** (level_db / 20.0) / (np.sqrt(np.mean(voice**2)) + 1e-9))
    voice = voice + voices.ROOM_NOISE_RMS * rng.standard_normal(count, dtype=np.float32)
    return np.tanh(voice).astype(np.float32)


def _integral(values: np.ndarray, rate: int) -> np.ndarray:
    """Integral over time [N], 0 at the first sample."""
    return (np.cumsum(values) - values[0]) / rate


def _pitch_contour(
    over_time: dict[str, np.ndarray], speaker: Speaker, seconds: float, rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Pitch in Hz [N], as `voices._pitch_contour`, with slopes and rates that change."""
    phase = 2.0 * np.pi * _integral(5.0 * 2.0 ** (0.6 * over_time["vibrato_rate"]), rate)
    depth = 0.9 * np.maximum(1.0 + over_time["vibrato_depth"], 0.0)
    vibrato = depth * np.sin(phase + rng.uniform(0.0, 2.0 * np.pi))
    rise = voices.SLOPE_SEMITONES / seconds * _integral(over_time["slope"], rate)
    semitones = voices.PITCH_SEMITONES * over_time["pitch"] + rise - rise.mean() + vibrato
    return speaker.pitch_hz * 2.0 ** (semitones / 12.0)


def _syllables(over_time: dict[str, np.ndarray], rate: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Loudness [N] and the share of the first vowel [N], as `voices._syllables`, with a rhythm that changes."""
    phase = _integral(3.6 * 2.0 ** (0.8 * over_time["syllable_rate"]), rate) + rng.uniform()
    envelope = 0.06 + 0.94 * np.sin(np.pi * (phase % 1.0)) ** 1.5
    stress = rng.uniform(0.65, 1.0, size=int(phase[-1]) + 1)
    vowel_share = 0.5 + 0.5 * np.sin(np.pi * phase)
    return (envelope * stress[phase.astype(int)]).astype(np.float32), vowel_share.astype(np.float32)


def _faded(sources: list[np.ndarray], place: np.ndarray) -> np.ndarray:
    """One sound [N] out of K of them: each is heard at its place, and fades into the next."""
    stacked, sample = np.stack(sources), np.arange(len(place))
    before = np.minimum(place.astype(int), len(sources) - 1)
    after = np.minimum(before + 1, len(sources) - 1)
    share = place - before
    return (1.0 - share) * stacked[before, sample] + share * stacked[after, sample]
