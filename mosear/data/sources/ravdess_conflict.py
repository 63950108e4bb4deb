"""RAVDESS-Conflict: the face of one emotion with the voice of another, same actor and sentence.

Every clip, the consistent ones too, takes its face from the first repetition and its voice from the second, so that
lips and sound match equally badly everywhere and cannot give a conflict away. The label is given by construction, not
by people: it is the emotion that is acted with strong intensity; the other source shows another one with normal
intensity. With both emotions equal the clip is consistent (both strong).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mosear.data.clip import Clip, ModalityLabels
from mosear.data.conflict_rules import AUDIO_ALIGNED, CONSISTENT, VIDEO_ALIGNED
from mosear.data.sources.base import Reading, Remux, Request, Row, Source, split_of_fold
from mosear.data.sources.ravdess import LAYOUT, Utterance, fold_of, utterances

EMOTIONS = ("happy", "sad", "angry", "fear", "disgust", "surprise")
"""Acted with two intensities. Calm is left out, since it is hardly told from neutral."""
WEAK = (*EMOTIONS, "neutral")
_CODES = {"neutral": "01", "happy": "03", "sad": "04", "angry": "05", "fear": "06", "disgust": "07", "surprise": "08"}
_NORMAL, _STRONG = "01", "02"
_FACE_REPETITION, _VOICE_REPETITION = "01", "02"
_FOLDS = 6


def weak_partner(strong: str, actor: int, statement: int, direction: int) -> str:
    """The emotion of the weaker side: each of the other six equally often, for men and women and for both sentences.

    Args:
        strong: Emotion of the stronger side.
        actor: 1 to 24.
        statement: 1 or 2.
        direction: 0 if the face is the stronger side, 1 if the voice is.
    """
    others = [emotion for emotion in WEAK if emotion != strong]
    pair = (actor - 1) // 2  # a man and a woman
    return others[(pair + 3 * (statement - 1) + 2 * direction + EMOTIONS.index(strong)) % len(others)]


def _pairs(actor: int, statement: int) -> list[tuple[str, tuple[str, str], tuple[str, str]]]:
    """(subset, (emotion, intensity) of the face, the same of the voice) for one actor and sentence."""
    pairs = []
    for strong in EMOTIONS:
        loud = (strong, _STRONG)
        pairs.append((CONSISTENT, loud, loud))
        pairs.append((VIDEO_ALIGNED, loud, (weak_partner(strong, actor, statement, 0), _NORMAL)))
        pairs.append((AUDIO_ALIGNED, (weak_partner(strong, actor, statement, 1), _NORMAL), loud))
    return pairs


def _find(
    found: Mapping[str, Utterance], cue: tuple[str, str], statement: int, repetition: str, actor: int
) -> Utterance | None:
    emotion, intensity = cue
    return found.get(f"01-{_CODES[emotion]}-{intensity}-{statement:02d}-{repetition}-{actor:02d}")


def _read(request: Request) -> Reading:
    found = {utterance.key: utterance for utterance in utterances(request.root)}
    folder = request.out.parent / "ravdess-conflict"
    reading = Reading([], media_root=request.out.parent)
    for actor in sorted({utterance.actor for utterance in found.values()}):
        for statement in (1, 2):
            for subset, face_cue, voice_cue in _pairs(actor, statement):
                face = _find(found, face_cue, statement, _FACE_REPETITION, actor)
                voice = _find(found, voice_cue, statement, _VOICE_REPETITION, actor)
                row_id = f"{actor:02d}-{statement}-{subset}-face_{face_cue[0]}-voice_{voice_cue[0]}"
                picture = face.picture if face else None
                sound = voice.sound if voice else None
                if face is None or voice is None or picture is None or sound is None:
                    reading.drop("a source file is missing", row_id)
                    continue
                target = folder / f"{row_id}.mp4"
                reading.remuxes.append(Remux(picture, sound, target))
                reading.rows.append(_row(row_id, target, subset, face, voice, request))
    reading.notes.append("Labels are given by construction (the stronger side), not by people.")
    return reading


def _row(row_id: str, target: Path, subset: str, face: Utterance, voice: Utterance, request: Request) -> Row:
    clip = Clip(
        id=row_id,
        video=target.relative_to(request.out.parent).as_posix(),
        audio="video",
        text=face.text,
        label=voice.emotion if subset == AUDIO_ALIGNED else face.emotion,
        modality_labels=ModalityLabels(visual=face.emotion, audio=voice.emotion),
        subset=subset,
        split=split_of_fold(fold_of(face.actor), request.fold, _FOLDS),
        speaker=f"{face.actor:02d}",
    )
    return Row(clip)


def _counts(request: Request) -> Mapping[str, int]:
    groups = {f"subset {name}": 288 for name in (CONSISTENT, VIDEO_ALIGNED, AUDIO_ALIGNED)}
    return {"clips": 864, **groups, **{f"label {label}": 144 for label in EMOTIONS}}


RAVDESS_CONFLICT = Source(
    name="ravdess-conflict",
    title="RAVDESS-Conflict: faces dubbed with another emotion of the same actor and sentence",
    licence="CC BY-NC-SA 4.0 (the made files too)",
    layout=LAYOUT,
    read=_read,
    evidence="our construction; labels by design",
    labels=EMOTIONS,
    counts=_counts,
    disjoint=("speaker",),
    folds=_FOLDS,
)
