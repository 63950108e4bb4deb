"""When do the modalities of a clip disagree? Six published answers, each under its own name and never mixed.

A rule maps what each modality says on its own to the name of a test subset. The rules differ in what they compare
(categories, sentiment scores, crowd votes) and in what they call a conflict, so results under two rules are not
comparable. Except for ``crowd_vote``, which is ``camer`` on votes, no two rules share a subset name
(:data:`RULE_SUBSETS`).

A label that a clip lacks stays unknown: it is never read as neutral or 0. Where a rule cannot decide, it returns None,
and the caller counts and leaves out the clip. :func:`without_modality` makes the missing-modality variants of a clip.

======================  ============================  ===============================================================
rule                    compares                      source
======================  ============================  ===============================================================
:func:`camer`           categories, joint category    CA-MER (Han et al., ACM MM 2025, arXiv 2508.01181)
:func:`emomm`           polarities, joint polarity    EmoMM (Sun et al., Findings of ACL 2026, arXiv 2605.01024)
:func:`polarity_any`    polarities with each other    unimodal labels of CH-SIMS
:func:`strong_range`    largest and smallest score    DiffEmo (Wang and Wu, arXiv 2406.03004)
:class:`IntensityRule`  summed pairwise differences   VISTA (2026), which re-runs CA-MER and EmoMM
:func:`crowd_vote`      majority votes, as ``camer``  CREMA-D (Cao et al., 2014)
======================  ============================  ===============================================================
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mosear.data.clip import Clip
from mosear.roles import MODALITIES

CONSISTENT = "consistent"
VIDEO_ALIGNED = "video_aligned"
AUDIO_ALIGNED = "audio_aligned"
ALL_DIFFERENT = "all_different"
JOINT_DIFFERS = "joint_differs"
CAMER_SUBSETS = (CONSISTENT, VIDEO_ALIGNED, AUDIO_ALIGNED)
CAMER_OUTSIDE = (ALL_DIFFERENT, JOINT_DIFFERS)
EMOMM_SUBSETS = ("align", "conflict")
MISSING_SUBSETS = tuple(f"missing_{modality}" for modality in MODALITIES)
POLARITY_SUBSETS = ("same_polarity", "different_polarity")
RANGE_SUBSETS = ("narrow_range", "strong_range")
INTENSITY_SUBSETS = ("intensity_q1", "intensity_q2", "intensity_q3", "intensity_q4")

RuleName = Literal["camer", "emomm", "polarity_any", "strong_range", "intensity", "crowd_vote"]
RULE_SUBSETS: Mapping[RuleName, tuple[str, ...]] = {
    "camer": CAMER_SUBSETS + CAMER_OUTSIDE,
    "emomm": EMOMM_SUBSETS,
    "polarity_any": POLARITY_SUBSETS,
    "strong_range": RANGE_SUBSETS,
    "intensity": INTENSITY_SUBSETS,
    "crowd_vote": CAMER_SUBSETS + CAMER_OUTSIDE,
}

NEUTRAL_ZONE = 0.1
STRONG_RANGE = 1.0
# Scores come from float32 files and tenths: beyond this many digits a difference is representation, not opinion.
_DIGITS = 6


def camer(*, visual: str | None, audio: str | None, joint: str | None) -> str | None:
    """CA-MER's groups, from what the picture, the sound and both together show (``q_v``, ``q_a``, ``q_av``)::

        consistent      q_v = q_a = q_av
        video_aligned   q_v = q_av, q_a != q_av
        audio_aligned   q_a = q_av, q_v != q_av
        all_different   all three differ                    outside the benchmark (CAMER_OUTSIDE)
        joint_differs   q_v = q_a != q_av                   outside the benchmark

    Args:
        visual: the emotion that the picture shows on its own.
        audio: the emotion that the sound carries on its own.
        joint: the emotion of both together, which is the gold label.

    Returns:
        The group, or None if one of the labels is missing (None or blank).
    """
    labels = [(label or "").strip() for label in (visual, audio, joint)]
    if not all(labels):
        return None
    q_v, q_a, q_av = labels
    if q_v == q_av:
        return CONSISTENT if q_a == q_av else VIDEO_ALIGNED
    if q_a == q_av:
        return AUDIO_ALIGNED
    return JOINT_DIFFERS if q_v == q_a else ALL_DIFFERENT


def crowd_vote(
    *,
    visual: str,
    audio: str,
    joint: str,
    agreement: Sequence[float] | None = None,
    min_agreement: float = 0.0,
) -> str | None:
    """:func:`camer` on the majority votes of CREMA-D (face only, voice only, both).

    A tie, written ``"A:D"`` there, is no majority. Note that the ``...Level`` columns of ``summaryTable.csv`` are mean
    intensities, not agreement; agreement is the majority's share of the responses (``tabulatedVotes.csv``). On all
    7,442 clips: 6,042 without ties, of them 3,034 consistent, 1,887 video-aligned, 548 audio-aligned, 359 all
    different and 214 where the joint vote differs from both.

    Args:
        visual: majority vote on the face alone.
        audio: majority vote on the voice alone.
        joint: majority vote on both.
        agreement: the three shares in [0, 1], in any order; needed where ``min_agreement`` is above 0.
        min_agreement: least share that each of the three majorities must have.

    Returns:
        A name as of :func:`camer`, or None for a tie, a missing vote or too little agreement.

    Raises:
        ValueError: if agreement is demanded but not given, or is not three shares in [0, 1].
    """
    if not 0 <= min_agreement <= 1:
        raise ValueError(f"min_agreement is a share in [0, 1], got {min_agreement}.")
    if min_agreement > 0:
        if agreement is None:
            raise ValueError(f"min_agreement={min_agreement} needs the agreement of the three votes; pass agreement=.")
        if len(agreement) != 3 or not all(0 <= share <= 1 for share in agreement):
            raise ValueError(f"agreement must be three shares in [0, 1], got {list(agreement)}; divide percentages.")
        if min(agreement) < min_agreement:
            return None
    if any(":" in vote for vote in (visual, audio, joint)):
        return None
    return camer(visual=visual, audio=audio, joint=joint)


def polarity(score: float, *, neutral_zone: float = NEUTRAL_ZONE) -> int:
    """``-1`` if ``s < -z``, ``0`` if ``|s| <= z``, ``+1`` if ``s > z``, for a score on the scale [-1, 1].

    The edges belong to neutral, also where float32 stored -0.1 as -0.10000000149.
    """
    score = _on_scale("score", score)
    return (score > neutral_zone) - (score < -neutral_zone)


def emomm(
    *,
    joint: float | None,
    text: float | None = None,
    audio: float | None = None,
    visual: float | None = None,
    neutral_zone: float = NEUTRAL_ZONE,
) -> str | None:
    """EmoMM: "conflict" if the polarity of any available modality differs from that of the joint label, else "align".

    Its third condition, missing modalities, is made by :func:`without_modality`. The neutral zone is our reading: the
    benchmark's files are not public; CMU-MOSI's scale [-3, 3] is divided by 3 first.

    Returns:
        The subset, or None without a joint score or without any unimodal score.
    """
    available = [score for score in (text, audio, visual) if score is not None]
    if joint is None or not available:
        return None
    whole = polarity(joint, neutral_zone=neutral_zone)
    differs = any(polarity(score, neutral_zone=neutral_zone) != whole for score in available)
    return EMOMM_SUBSETS[differs]


def polarity_any(*, text: float | None, audio: float | None, visual: float | None) -> str | None:
    """ "different_polarity" if the :func:`polarity` of text, audio and picture takes more than one value.

    CH-SIMS has 1,117 of 2,281 such clips (train 676 of 1,368, validation 231 of 456, test 210 of 457); 455 of them
    hold both polarities, in 662 one side is neutral.

    Returns:
        The subset, or None if one of the three scores is missing.
    """
    if text is None or audio is None or visual is None:
        return None
    return POLARITY_SUBSETS[len({polarity(text), polarity(audio), polarity(visual)}) > 1]


def strong_range(*, text: float | None, audio: float | None, visual: float | None) -> str | None:
    """DiffEmo: "strong_range" if ``max - min > 1``, strictly; scores on [-1, 1]. CH-SIMS v2: 661 of 4,402 clips.

    Returns:
        The subset, or None if one of the three scores is missing.
    """
    if text is None or audio is None or visual is None:
        return None
    return RANGE_SUBSETS[_spread(text, audio, visual) > STRONG_RANGE]


def intensity(text: float, audio: float, visual: float) -> float:
    """``C = |s_t - s_a| + |s_t - s_v| + |s_a - s_v| = 2 (max - min)``, in [0, 4] for scores on [-1, 1]."""
    return round(2 * _spread(text, audio, visual), _DIGITS)


@dataclass(frozen=True)
class IntensityRule:
    """VISTA: quartiles of :func:`intensity`, cut on the training clips only.

    The training clips are ordered by ``(C, h)``, where ``h`` is the SHA-256 of the clip's id: scores come in steps, so
    there are many ties, and the hash breaks them the same way everywhere. With n clips the cuts are the keys at ranks
    ``floor(n/4)``, ``floor(n/2)``, ``floor(3n/4)`` (680, 1,361 and 2,041 of CH-SIMS v2's 2,722), each the last of its
    quartile. Clips of any split are then placed by their own key.

    Attributes:
        cuts: the three keys, ascending.
    """

    cuts: tuple[tuple[float, str], tuple[float, str], tuple[float, str]]

    @classmethod
    def fit(cls, scores: Mapping[str, tuple[float, float, float]]) -> IntensityRule:
        """Cuts at the quartiles of ``{clip id: (text, audio, visual)}`` of the training split.

        Raises:
            ValueError: with fewer than four clips.
        """
        if len(scores) < 4:
            raise ValueError(f"quartiles need at least 4 training clips with three unimodal scores, got {len(scores)}.")
        keys = sorted(_key(clip_id, *values) for clip_id, values in scores.items())
        first, second, third = (keys[len(keys) * quarter // 4 - 1] for quarter in (1, 2, 3))
        return cls((first, second, third))

    def __call__(self, clip_id: str, *, text: float | None, audio: float | None, visual: float | None) -> str | None:
        """The quartile of one clip, or None if one of the three scores is missing."""
        if text is None or audio is None or visual is None:
            return None
        key = _key(clip_id, text, audio, visual)
        return INTENSITY_SUBSETS[sum(key > cut for cut in self.cuts)]


def without_modality(clip: Clip, modality: str) -> Clip:
    """The variant of a clip that lacks one modality, by ablation: EmoMM's "missing" condition.

    The variant has id ``{id}#missing_{modality}``, subset ``missing_{modality}``, the modality in ``missing``, and no
    opinion of that modality in ``modality_labels``. The sound of a video file stays when its picture goes, and the
    earlier turns of the dialogue go with the transcript.

    Args:
        clip: a clip that has the modality and at least one other.
        modality: "video", "audio" or "text".

    Raises:
        ValueError: for an unknown modality, one that the clip does not have, or its only one.
    """
    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}; choose one of {', '.join(MODALITIES)}.")
    if clip.present in ((), (modality,)) or modality not in clip.present:
        raise ValueError(
            f"clip {clip.id!r} has {', '.join(clip.present) or 'nothing'}: {modality} cannot be taken away from it. "
            "Ablate clips that have the modality and at least one more."
        )
    changes: dict[str, Any] = {"text": None, "context": ()} if modality == "text" else {modality: None}
    if modality == "video" and clip.audio == "video":
        changes["audio"] = clip.video
    opinion = {"video": "visual"}.get(modality, modality)
    subset = f"missing_{modality}"
    return replace(
        clip,
        id=f"{clip.id}#{subset}",
        subset=subset,
        missing=tuple(name for name in MODALITIES if name in clip.missing or name == modality),
        modality_labels=replace(clip.modality_labels, **{opinion: None}),
        **changes,
    )


def _on_scale(name: str, score: float) -> float:
    if not math.isfinite(score) or abs(score) > 1 + 10**-_DIGITS:
        raise ValueError(f"{name} must be a sentiment on the scale [-1, 1], got {score}; divide CMU-MOSI's by 3.")
    return round(score, _DIGITS)


def _spread(text: float, audio: float, visual: float) -> float:
    scores = [_on_scale(name, s) for name, s in (("text", text), ("audio", audio), ("visual", visual))]
    return max(scores) - min(scores)


def _key(clip_id: str, text: float, audio: float, visual: float) -> tuple[float, str]:
    return intensity(text, audio, visual), hashlib.sha256(clip_id.encode()).hexdigest()
