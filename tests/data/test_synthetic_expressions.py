"""Faces and voices with given parameters: equal to the usual ones where nothing changes, and changing where it does."""

from __future__ import annotations

import numpy as np
import pytest

from mosear.data.synthetic import EMOTIONS, make_speaker, render_face, render_voice
from mosear.data.synthetic.circumplex import COORDINATES, nearest
from mosear.data.synthetic.expressions import draw_parameters, render_face_along, render_voice_along, weights_of
from mosear.data.synthetic.faces import FACE_CUES
from mosear.data.synthetic.voices import VOICE_CUES

SPEAKER = make_speaker("train", 0, 0)
SPACES = pytest.mark.parametrize("space", [FACE_CUES, VOICE_CUES], ids=["face", "voice"])


def rows(emotion: str, intensity: float, count: int) -> np.ndarray:
    return np.repeat(weights_of(((emotion, intensity),))[None], count, axis=0)


@SPACES
def test_one_emotion_is_drawn_as_ever(space) -> None:
    for emotion in EMOTIONS:
        own = draw_parameters(space, rows(emotion, 0.7, 3), np.random.default_rng(4))
        usual = space.draw(emotion, 0.7, np.random.default_rng(4))
        np.testing.assert_allclose(own, [usual] * 3, atol=1e-12)


@SPACES
def test_a_blend_lies_between_its_emotions(space) -> None:
    """With the same noise, the parameters of 0.6 A + 0.4 B are those shares of A's and B's."""
    first, second = (draw_parameters(space, rows(e, 0.5, 1), np.random.default_rng(2)) for e in ("happy", "sad"))
    blend = weights_of((("happy", 0.3), ("sad", 0.2)))[None]
    own = draw_parameters(space, blend, np.random.default_rng(2))
    np.testing.assert_allclose(own, 0.6 * first + 0.4 * second, atol=1e-12)
    assert (own >= np.minimum(first, second) - 1e-12).all() and (own <= np.maximum(first, second) + 1e-12).all()


def test_weights_above_one_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to at most 1"):
        draw_parameters(FACE_CUES, weights_of((("happy", 0.7), ("sad", 0.5)))[None], np.random.default_rng(0))


@pytest.mark.parametrize("count", [1, 16])
def test_a_constant_face_is_the_usual_one(count) -> None:
    usual = render_face("worried", 0.8, SPEAKER, np.random.default_rng(3), size=48)
    rng = np.random.default_rng(3)
    own = render_face_along(draw_parameters(FACE_CUES, rows("worried", 0.8, count), rng), SPEAKER, rng, size=48)
    np.testing.assert_array_equal(own, usual)


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("emotion", ["angry", "sad"])
def test_a_constant_voice_is_the_usual_one(emotion, count) -> None:
    usual = render_voice(emotion, 0.8, SPEAKER, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    own = render_voice_along(draw_parameters(VOICE_CUES, rows(emotion, 0.8, count), rng), SPEAKER, rng)
    assert own.shape == usual.shape and own.dtype == np.float32
    assert np.abs(own - usual).max() < 0.01 and np.corrcoef(own, usual)[0, 1] > 0.999  # phases differ by rounding


def test_a_face_that_changes_begins_as_the_one_and_ends_as_the_other() -> None:
    """Frame by frame, a moving face is the frame of the constant face with those parameters."""
    path = np.linspace(rows("happy", 1.0, 1)[0], rows("surprise", 1.0, 1)[0], 16)
    parameters = draw_parameters(FACE_CUES, path, np.random.default_rng(1))
    moving = render_face_along(parameters, SPEAKER, np.random.default_rng(5), size=48)
    for frame in (0, 7, 15):
        constant = render_face_along(parameters[frame : frame + 1], SPEAKER, np.random.default_rng(5), size=48)
        np.testing.assert_array_equal(moving[frame], constant[frame])
    assert (
        np.abs(
            moving[0].astype(int) - render_face_along(parameters[15:], SPEAKER, np.random.default_rng(5), size=48)[0]
        ).max()
        > 40
    )
    with pytest.raises(ValueError, match="one row of parameters, or as many; got 5"):
        render_face_along(parameters[:5], SPEAKER, np.random.default_rng(5))


def halves(parameters: np.ndarray) -> list[np.ndarray]:
    voice = render_voice_along(parameters, SPEAKER, np.random.default_rng(2))
    return np.split(voice, 2)


def decibels(part: np.ndarray) -> float:
    return float(20.0 * np.log10(np.sqrt(np.mean(part**2))))


def pitch_of(part: np.ndarray) -> float:
    """Pitch in semitones by autocorrelation of the middle of a sound."""
    piece = part[len(part) // 2 - 1024 : len(part) // 2 + 1024] * np.hanning(2048)
    correlation = np.correlate(piece, piece, "full")[2047:]
    return float(12.0 * np.log2(16000 / (35 + int(correlation[35:230].argmax()))))


@pytest.mark.parametrize(("name", "measure"), [("energy", decibels), ("pitch", pitch_of)])
def test_a_voice_follows_a_parameter(name, measure) -> None:
    """Only this one rises from the first half to the second; the other way round, it falls."""
    parameters = draw_parameters(VOICE_CUES, rows("neutral", 1.0, 10), np.random.default_rng(1))
    parameters[:, VOICE_CUES.names.index(name)] = np.linspace(-0.8, 0.8, 10)
    rising, falling = ([measure(part) for part in halves(own)] for own in (parameters, parameters[::-1]))
    assert rising[1] - rising[0] > 3.0 and falling[0] - falling[1] > 3.0  # from -0.4 to 0.4: about 5 dB or semitones


def test_every_emotion_is_nearest_to_its_own_place() -> None:
    assert tuple(COORDINATES) == EMOTIONS
    assert [nearest(np.array(place)) for place in COORDINATES.values()] == list(EMOTIONS)
