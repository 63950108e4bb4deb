"""Clips from outside the distribution that the embedded bases were trained on: the test subset `ood`.

Face and voice agree, as in `consistent`, and show the same parameters; everything else differs. Faces are pencil
drawings on ruled paper, with other proportions, of people from another range; voices are lower or higher than any in
training, speak at another tempo in a room with an echo, and are recorded with hum and low-frequency noise.
"""

from dataclasses import replace

import numpy as np

from mosear.data.synthetic.clips import FPS, NUM_FRAMES, SAMPLE_RATE
from mosear.data.synthetic.faces import render_face
from mosear.data.synthetic.plans import ClipPlan, Group, clip_rngs, plan_clip
from mosear.data.synthetic.speakers import Colour, Speaker, make_speaker
from mosear.data.synthetic.voices import render_voice

OOD = Group("test_ood", "test", "ood", "test")

SPEAKERS = 30
FIRST_SPEAKER = 1000
"""Numbers from here on; those of the split test end long before."""
PAPERS: tuple[Colour, ...] = ((250, 246, 232), (232, 240, 250), (238, 250, 236), (252, 236, 240))
INKS: tuple[Colour, ...] = ((40, 40, 48), (30, 40, 110), (96, 44, 28), (24, 84, 60))
SKINS: tuple[Colour, ...] = ((206, 222, 196), (196, 206, 232), (232, 204, 214))
HAIRS: tuple[Colour, ...] = ((46, 52, 120), (120, 34, 96), (22, 96, 70))

LINE_GAIN = 3.0
TONE = 0.9
"""How much of the shading remains between the lines."""

TEMPO = (1.1, 1.2)
ECHO_SECONDS = (0.03, 0.07)
ECHO_GAIN = 0.35
HUM_RMS = 0.001
NOISE_RMS = 0.003


def plan_ood_clip(seed: int, index: int) -> ClipPlan:
    """Clip number `index` of the subset: planned as a consistent one, for a speaker of its own range."""
    plan = plan_clip(seed, OOD, index)
    rng, _ = clip_rngs(seed, OOD, index)
    return replace(plan, speaker=make_ood_speaker(int(rng.integers(SPEAKERS)), seed))


def make_ood_speaker(index: int, seed: int) -> Speaker:
    """Speaker number `index`: colours, width, pitch and formants lie outside the ranges of all other speakers."""
    rng = np.random.default_rng([seed, index, 0x00D])
    high = rng.random() < 0.5
    pitch = rng.uniform(205.0, 235.0) if high else rng.uniform(112.0, 130.0)
    return replace(
        make_speaker("test", FIRST_SPEAKER + index, seed),
        id=f"ood-{index:03d}",
        skin=SKINS[rng.integers(len(SKINS))],
        hair=HAIRS[rng.integers(len(HAIRS))],
        face_width=float(rng.uniform(0.82, 0.9) if rng.random() < 0.5 else rng.uniform(1.1, 1.18)),
        pitch_hz=float(pitch),
        formant_scale=float((pitch / 165.0) ** 0.3),
    )


def render_ood_arrays(plan: ClipPlan, rng: np.random.Generator, size: int = 112) -> tuple[np.ndarray, np.ndarray]:
    """Frames and waveform of a clip, in the shapes of `render_clip_arrays`; its parameters are drawn as there."""
    face_rng, voice_rng, style_rng = rng.spawn(3)
    assert plan.face is not None and plan.voice is not None
    frames = render_ood_face(*plan.face, plan.speaker, face_rng, style_rng, size=size)
    tempo = style_rng.uniform(*TEMPO)
    seconds = NUM_FRAMES / FPS
    voice = render_voice(*plan.voice, _slowed(plan.speaker, tempo), voice_rng, seconds=seconds * tempo)
    return frames, _in_a_room(_faster(voice, round(seconds * SAMPLE_RATE)), style_rng)


def render_ood_face(
    emotion: str,
    intensity: float,
    speaker: Speaker,
    rng: np.random.Generator,
    style_rng: np.random.Generator,
    *,
    size: int = 112,
) -> np.ndarray:
    """As `render_face`, in pencil; the expression is what `render_face` draws from the same `rng`."""
    # Twice the size, so that lines are drawn from clean edges.
    painted = render_face(emotion, intensity, speaker, rng, num_frames=NUM_FRAMES, size=2 * size)
    return _drawn(painted, style_rng)


def _drawn(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pencil drawing of painted frames, half their size: dark where the picture changes, on ruled paper."""
    grey = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32) / np.float32(255.0)
    count, height, width = grey.shape
    grey = grey.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))
    down, across = np.gradient(grey, axis=1), np.gradient(grey, axis=2)
    lines = np.clip(LINE_GAIN * np.hypot(down, across) - 0.12, 0.0, 1.0)
    ink = np.maximum(lines, TONE * (1.0 - grey))
    rules = (np.arange(height // 2) + rng.integers(14)) % 14 == 0
    grain = 0.03 * rng.standard_normal(grey.shape[1:], dtype=np.float32)
    ink = np.clip(np.maximum(ink, 0.3 * rules[None, :, None]) + grain, 0.0, 1.0)[..., None]
    paper = np.array(PAPERS[rng.integers(len(PAPERS))], dtype=np.float32)
    pencil = np.array(INKS[rng.integers(len(INKS))], dtype=np.float32)
    return np.ascontiguousarray((paper * (1.0 - ink) + pencil * ink).astype(np.uint8))


def _slowed(speaker: Speaker, tempo: float) -> Speaker:
    """The speaker before the sound is played faster, which raises pitch and formants."""
    return replace(speaker, pitch_hz=speaker.pitch_hz / tempo, formant_scale=speaker.formant_scale / tempo)


def _faster(voice: np.ndarray, count: int) -> np.ndarray:
    """All of the sound in `count` samples."""
    return np.interp(np.linspace(0.0, len(voice) - 1.0, count), np.arange(len(voice)), voice)


def _in_a_room(voice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound of a room with an echo, hum and low-frequency noise."""
    delay = round(rng.uniform(*ECHO_SECONDS) * SAMPLE_RATE)
    heard = voice.copy()
    heard[delay:] += ECHO_GAIN * voice[:-delay]
    heard *= np.sqrt(np.mean(voice**2) / np.mean(heard**2))  # as loud as before: loudness is a cue
    time = np.arange(len(heard)) / SAMPLE_RATE
    hum = np.sin(2.0 * np.pi * 50.0 * time + rng.uniform(0.0, 2.0 * np.pi)) * (HUM_RMS * np.sqrt(2.0))
    noise = np.cumsum(rng.standard_normal(len(heard)))
    noise -= np.convolve(noise, np.full(400, 1.0 / 400), mode="same")
    noise *= NOISE_RMS / np.sqrt(np.mean(noise**2))
    return np.tanh(heard + hum + noise).astype(np.float32)
