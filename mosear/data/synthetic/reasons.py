"""Reference reasons: what face, voice and words of a clip do, in a small closed vocabulary.

    brows lowered, mouth pressed; voice loud, voice fast; words plain

Face and voice phrases are decided by thresholds on the parameters that the clip was drawn with, so a cue is named only
where it can be seen or heard: a weak one is "face calm" or "voice even". Words are described by what the transcript
fits. No phrase uses a label word. Reasons follow from the seed alone; nothing is rendered.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mosear.data.clip import reason_text
from mosear.data.synthetic.emotions import EMOTIONS
from mosear.data.synthetic.faces import face_parameters
from mosear.data.synthetic.plans import ClipPlan, clip_rngs
from mosear.data.synthetic.transcripts import compatible
from mosear.data.synthetic.voices import VOICE_CUES

MOST_PHRASES = 3
"""Phrases of one modality; where more cues are marked, the most marked ones are named."""


@dataclass(frozen=True)
class Marked:
    """A phrase and when it is said: all its parameters lie at or beyond the threshold, on the side of its sign.

    Attributes:
        phrase: What is said.
        parameters: Names in the cue space.
        threshold: Least value; for a negative one, largest value.
    """

    phrase: str
    parameters: tuple[str, ...]
    threshold: float

    def margin(self, drawn: Mapping[str, float]) -> float:
        """How far beyond the threshold the least marked parameter is; negative where the phrase is not said."""
        side = 1.0 if self.threshold > 0 else -1.0
        return min(side * drawn[name] for name in self.parameters) - abs(self.threshold)


FACE_PHRASES = (
    Marked("brows knitted", ("brow_angle",), -0.5),
    Marked("brows slanted", ("brow_angle",), 0.6),
    Marked("brows lowered", ("brow_height",), -0.5),
    Marked("brows raised", ("brow_height",), 0.6),
    Marked("mouth smiling", ("mouth_curve",), 0.5),
    Marked("mouth downturned", ("mouth_curve",), -0.6),
    Marked("mouth open", ("mouth_open",), 0.5),
    Marked("mouth pressed", ("mouth_open",), -0.6),
    Marked("lids wide", ("eye_open",), 0.6),
    Marked("lids lowered", ("eye_open",), -0.5),
    Marked("head nodding", ("nod",), 0.3),
    Marked("head shaking", ("shake",), 0.4),
    Marked("head drooping", ("droop",), 0.5),
    Marked("head lifted", ("droop",), -0.6),
    Marked("head still", ("nod", "shake"), -0.8),
)
FACE_CALM = "face calm"

VOICE_PHRASES = (
    Marked("voice high", ("pitch",), 0.5),
    Marked("voice deep", ("pitch",), -0.45),
    Marked("voice rising", ("slope",), 0.45),
    Marked("voice falling", ("slope",), -0.45),
    Marked("voice loud", ("energy",), 0.45),
    Marked("voice soft", ("energy",), -0.45),
    Marked("voice fast", ("syllable_rate",), 0.5),
    Marked("voice slow", ("syllable_rate",), -0.55),
    Marked("voice trembling", ("vibrato_depth",), 0.4),
    Marked("voice steady", ("vibrato_depth",), -0.65),
)
VOICE_EVEN = "voice even"

WORD_PHRASES = {
    "neutral": "words calm",
    "angry": "words cross",
    "happy": "words glad",
    "sad": "words gloomy",
    "worried": "words uneasy",
    "surprise": "words startled",
}
"""By emotion that a transcript fits, in the order of `EMOTIONS`."""
WORDS_PLAIN = "words plain"

VOCABULARY: dict[str, tuple[str, ...]] = {
    "video": (*(marked.phrase for marked in FACE_PHRASES), FACE_CALM),
    "audio": (*(marked.phrase for marked in VOICE_PHRASES), VOICE_EVEN),
    "text": (*WORD_PHRASES.values(), WORDS_PLAIN),
}
"""Every phrase, by modality."""

Cues = dict[str, list[str]]
"""Phrases by modality: video, audio, text; empty where the clip has none of it."""


def face_cues(parameters: Mapping[str, float]) -> list[str]:
    """Phrases for a face with these parameters, speaker offsets included."""
    return _most_marked(FACE_PHRASES, parameters) or [FACE_CALM]


def voice_cues(parameters: Mapping[str, float]) -> list[str]:
    """Phrases for a voice with these parameters."""
    return _most_marked(VOICE_PHRASES, parameters) or [VOICE_EVEN]


def word_cues(text: str) -> list[str]:
    """Phrases for a transcript: one per emotion that it fits, or that it is plain where it fits all."""
    fitting = compatible(text)
    return [WORDS_PLAIN] if len(fitting) == len(EMOTIONS) else [WORD_PHRASES[emotion] for emotion in fitting]


def _most_marked(rules: Iterable[Marked], parameters: Mapping[str, float]) -> list[str]:
    """At most `MOST_PHRASES` phrases, the most marked ones, in the order of the rules."""
    margins = {rule.phrase: rule.margin(parameters) for rule in rules}
    said = [phrase for phrase, margin in margins.items() if margin >= 0.0]
    kept = sorted(said, key=lambda phrase: -margins[phrase])[:MOST_PHRASES]
    return [phrase for phrase in said if phrase in kept]


def clip_cues(seed: int, plan: ClipPlan, index: int) -> Cues:
    """What the clip with this plan and index shows, sounds like and says."""
    face_rng, voice_rng = clip_rngs(seed, plan.group, index)[1].spawn(2)  # as `render_clip_arrays` does
    return {
        "video": face_cues(face_parameters(*plan.face, plan.speaker, face_rng)) if plan.face else [],
        "audio": voice_cues(voice_parameters(*plan.voice, voice_rng)) if plan.voice else [],
        "text": word_cues(plan.text) if plan.text else [],
    }


def voice_parameters(emotion: str, intensity: float, rng: np.random.Generator) -> dict[str, float]:
    """The parameters that `render_voice` draws from the same generator, by name."""
    return VOICE_CUES.named(VOICE_CUES.draw(emotion, intensity, rng))


def read_reason(text: str) -> Cues:
    """The phrases of a written reason by modality; what is no phrase of the vocabulary is left out."""
    written = [phrase.strip() for part in text.split(";") for phrase in part.split(",")]
    return {
        modality: list(dict.fromkeys(phrase for phrase in written if phrase in phrases))
        for modality, phrases in VOCABULARY.items()
    }


def phrase_f1(written: Sequence[str], references: Sequence[Cues]) -> dict[str, float]:
    """Micro-averaged F1 of the phrases in written reasons, by modality."""
    scores = {}
    found = [read_reason(text) for text in written]
    for modality in VOCABULARY:
        pairs = [
            (set(own[modality]), set(reference[modality])) for own, reference in zip(found, references, strict=True)
        ]
        hits = sum(len(own & reference) for own, reference in pairs)
        named = sum(len(own) + len(reference) for own, reference in pairs)
        scores[modality] = round(2.0 * hits / named, 4) if named else 1.0
    return scores


def reason_columns(cues: Cues) -> dict[str, str]:
    """The manifest columns `reason` and `cues`."""
    return {"reason": reason_text(cues), "cues": json.dumps(cues)}
