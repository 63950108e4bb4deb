"""Synthetic voices: an emotion, an intensity and a speaker become two seconds of babble.

A harmonic source follows a pitch contour, two vowels alternate by syllable (formants applied in the frequency domain),
and breath, an energy level and room noise are added. Expression parameters live in `VOICE_CUES`.
"""

import numpy as np

from mosear.data.synthetic.emotions import CueSpace
from mosear.data.synthetic.speakers import Speaker

VOICE_CUES = CueSpace(
    names=(
        "pitch",
        "slope",  # + the pitch rises
        "energy",
        "syllable_rate",
        "vibrato_depth",
        "vibrato_rate",
        "breath",
        "brightness",  # + flat spectral tilt
    ),
    prototypes=np.array(
        [
            [-0.5, 0.0, 0.0, 0.1, -1.0, -0.2, -1.0, -0.2],  # neutral
            [0.0, -0.8, 1.0, 0.9, -0.5, -0.2, -0.5, 1.0],  # angry
            [0.7, 0.2, 0.5, 0.3, 0.8, -0.8, -0.7, 0.2],  # happy
            [-1.0, -0.7, -1.0, -1.0, -0.2, -0.4, 0.6, -1.0],  # sad
            [0.3, 0.3, -0.6, 0.8, 0.9, 1.0, 0.5, -0.2],  # worried
            [1.0, 1.0, 0.5, -0.9, -0.6, 0.0, 0.4, 0.4],  # surprise
        ]
    ),
)

PITCH_SEMITONES = 6.0
SLOPE_SEMITONES = 6.0
ENERGY_DB = 7.0
BASE_RMS = 0.06
ROOM_NOISE_RMS = 0.0015
MICROPHONE_JITTER_DB = 0.7

VOWELS: tuple[tuple[float, float, float], ...] = (
    (730.0, 1090.0, 2440.0),
    (530.0, 1840.0, 2480.0),
    (390.0, 1990.0, 2550.0),
    (570.0, 840.0, 2410.0),
    (440.0, 1020.0, 2240.0),
)
FORMANT_BANDWIDTHS = (90.0, 130.0, 200.0)
WAVETABLE_SIZE = 2048
MAX_HARMONICS = 40


def render_voice(
    emotion: str,
    intensity: float,
    speaker: Speaker,
    rng: np.random.Generator,
    *,
    seconds: float = 2.0,
    rate: int = 16000,
) -> np.ndarray:
    """Renders a voice.

    Args:
        emotion: One of `EMOTIONS`.
        intensity: Strength of the cue in [0, 1]; 0 is an uninformative blend, 1 the crisp prototype.
        speaker: Whose voice it is.
        rng: Source of every random choice.
        seconds: Length.
        rate: Samples per second.

    Returns:
        Mono waveform, float32 [seconds * rate] in [-1, 1].
    """
    parameters = VOICE_CUES.named(VOICE_CUES.draw(emotion, intensity, rng))
    count = round(seconds * rate)
    time = np.arange(count) / rate
    pitch = _pitch_contour(parameters, speaker, time, seconds, rng)
    envelope, vowel_share = _syllables(parameters, time, rng)
    source = _glottal_source(parameters, pitch, rate) * envelope
    breath = rng.standard_normal(count, dtype=np.float32) * envelope
    voice = _speak(source, breath, vowel_share, parameters, speaker, rate, rng)

    level_db = ENERGY_DB * parameters["energy"] + speaker.loudness_db + rng.normal(0.0, MICROPHONE_JITTER_DB)
    voice *= BASE_RMS * 10.0 ** (level_db / 20.0) / (np.sqrt(np.mean(voice**2)) + 1e-9)
    voice += ROOM_NOISE_RMS * rng.standard_normal(count, dtype=np.float32)
    # A soft limiter instead of a clip: loud voices keep their spectrum.
    return np.tanh(voice).astype(np.float32)


def _pitch_contour(
    parameters: dict[str, float], speaker: Speaker, time: np.ndarray, seconds: float, rng: np.random.Generator
) -> np.ndarray:
    """Pitch in Hz [N]: level, slope over the clip and vibrato, all in semitones around the speaker's own pitch."""
    vibrato_hz = 5.0 * 2.0 ** (0.6 * parameters["vibrato_rate"])
    depth = 0.9 * max(0.0, 1.0 + parameters["vibrato_depth"])
    vibrato = depth * np.sin(2.0 * np.pi * vibrato_hz * time + rng.uniform(0.0, 2.0 * np.pi))
    slope = SLOPE_SEMITONES * parameters["slope"] * (time / seconds - 0.5)
    semitones = PITCH_SEMITONES * parameters["pitch"] + slope + vibrato
    return speaker.pitch_hz * 2.0 ** (semitones / 12.0)


def _syllables(
    parameters: dict[str, float], time: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Loudness [N] and the share of the first vowel [N], both following the syllable rhythm."""
    syllable_hz = 3.6 * 2.0 ** (0.8 * parameters["syllable_rate"])
    phase = syllable_hz * time + rng.uniform()
    envelope = 0.06 + 0.94 * np.sin(np.pi * (phase % 1.0)) ** 1.5
    stress = rng.uniform(0.65, 1.0, size=int(phase[-1]) + 1)
    vowel_share = 0.5 + 0.5 * np.sin(np.pi * phase)
    return (envelope * stress[phase.astype(int)]).astype(np.float32), vowel_share.astype(np.float32)


def _glottal_source(parameters: dict[str, float], pitch: np.ndarray, rate: int) -> np.ndarray:
    """Harmonic source [N] of unit RMS: one period from a table, read along the integrated pitch.

    The table holds only harmonics that stay below the Nyquist frequency at the clip's highest pitch: no aliasing.
    """
    harmonics = np.arange(1, min(MAX_HARMONICS, int(0.48 * rate / pitch.max())) + 1)
    tilt_db_per_octave = -9.0 + 5.0 * parameters["brightness"]
    spectrum = np.zeros(WAVETABLE_SIZE // 2 + 1, dtype=np.complex128)
    # Quadratic (Schroeder) phases keep the crest factor low, so that loud voices do not clip.
    phases = -1j * np.pi * harmonics**2 / len(harmonics)
    spectrum[harmonics] = 10.0 ** (tilt_db_per_octave * np.log2(harmonics) / 20.0) * np.exp(phases)
    table = np.fft.irfft(spectrum).astype(np.float32)
    position = np.cumsum(pitch / rate) * WAVETABLE_SIZE
    source = table[position.astype(np.int64) % WAVETABLE_SIZE]
    return source / np.sqrt(np.mean(source**2))


def _speak(
    source: np.ndarray,
    breath: np.ndarray,
    vowel_share: np.ndarray,
    parameters: dict[str, float],
    speaker: Speaker,
    rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Sends source and breath through two vowels and fades between them, float32 [N]."""
    first, second = rng.choice(len(VOWELS), size=2, replace=False)
    breath_gain = 0.55 * max(0.0, 0.5 + 0.5 * parameters["breath"]) ** 1.5
    excitation = source + np.float32(breath_gain) * breath
    spectrum = np.fft.rfft(excitation)
    frequencies = np.fft.rfftfreq(len(excitation), 1.0 / rate)
    voiced = [
        np.fft.irfft(spectrum * _formant_gain(VOWELS[vowel], speaker.formant_scale, frequencies), len(excitation))
        for vowel in (first, second)
    ]
    return (vowel_share * voiced[0] + (1.0 - vowel_share) * voiced[1]).astype(np.float32)


def _formant_gain(formants: tuple[float, float, float], scale: float, frequencies: np.ndarray) -> np.ndarray:
    """Zero-phase gain: a floor plus one resonance 1 / (1 + ((f - F) / B)^2) per formant."""
    gain = np.full(frequencies.shape, 0.15)
    for formant, bandwidth in zip(formants, FORMANT_BANDWIDTHS, strict=True):
        gain += 1.0 / (1.0 + ((frequencies - formant * scale) / bandwidth) ** 2)
    return gain
