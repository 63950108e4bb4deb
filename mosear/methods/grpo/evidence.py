"""Does the reasoning name the cues that are there? A reward for clips whose manifest rows have ``cues``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from mosear.inference.parsing import normalise
from mosear.roles import MODALITIES

Measure = Literal["f1", "precision", "recall"]
SYNTHETIC = "synthetic"

_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)


class EvidenceReward:
    """How well the cues that a completion names agree with those of its clip, per modality.

        precision_m = named and there / named        recall_m = named and there / there
        f1_m = 2 precision recall / (precision + recall),        reward = mean over modalities m

    Named are the phrases of the vocabulary that stand in the text inside ``<think>`` (without the tag, in the text
    before ``<answer>``), as whole words; case and punctuation do not matter, repetition counts once, and negation is
    not understood. A modality counts if the clip has cues of it or the completion names some: cues of what is not there
    are worth 0. Clips without cues have no reward.

    Args:
        vocabulary: all phrases by modality: ``synthetic``, or a JSON file ``{"video": [...], "audio": [...], ...}``.
        measure: ``f1``, ``precision`` or ``recall``.
        deciding: only modalities whose own label (the manifest's ``modality_labels``) is the clip's count: the evidence
            of the right modality. Clips where none is known to have it have no reward.
    """

    def __init__(self, vocabulary: str = SYNTHETIC, measure: Measure = "f1", deciding: bool = False) -> None:
        if measure not in get_args(Measure):
            raise ValueError(f"measure={measure!r} must be one of {', '.join(get_args(Measure))}")
        self.measure, self.deciding = measure, deciding
        self._vocabulary = {name: _spelled(phrases) for name, phrases in read_vocabulary(vocabulary).items()}

    def __call__(
        self,
        completions: Sequence[str],
        *,
        cues: Sequence[Mapping[str, Sequence[str]]],
        label: Sequence[str | None],
        modality_labels: Sequence[Mapping[str, str | None]],
        **columns: Any,
    ) -> list[float | None]:
        """One reward per completion."""
        return [
            self._score(text, there, [name for name in MODALITIES if own is not None and alone.get(name) == own])
            for text, there, own, alone in zip(completions, cues, label, modality_labels, strict=True)
        ]

    def named(self, completion: str) -> dict[str, set[str]]:
        """The phrases that stand in a completion's reasoning, by modality."""
        words = f" {normalise(thought_of(completion))} "
        return {name: {own for own in phrases if f" {own} " in words} for name, phrases in self._vocabulary.items()}

    def _score(self, completion: str, cues: Mapping[str, Sequence[str]], deciding: Sequence[str]) -> float | None:
        there = {name: set(_spelled(cues.get(name, ()))) for name in MODALITIES}
        if not any(there.values()) or (self.deciding and not deciding):
            return None
        named = self.named(completion)
        counted = [
            self._agreement(named.get(name, set()), there[name])
            for name in MODALITIES
            if (named.get(name) or there[name]) and (not self.deciding or name in deciding)
        ]
        return sum(counted) / len(counted) if counted else None

    def _agreement(self, named: set[str], there: set[str]) -> float:
        both = len(named & there)
        of = {"f1": len(named) + len(there), "precision": len(named), "recall": len(there)}[self.measure]
        return (2 if self.measure == "f1" else 1) * both / of if of else 0.0


def thought_of(completion: str) -> str:
    """What a completion considers: the text inside ``<think>``, else what stands before ``<answer>``."""
    found = _THOUGHT.search(completion)
    return found[1] if found else completion.partition("<answer>")[0]


def read_vocabulary(source: str) -> dict[str, list[str]]:
    """All phrases by modality.

    Raises:
        ValueError: for a file that cannot be read or holds something else.
    """
    if source == SYNTHETIC:
        from mosear.data.synthetic.reasons import VOCABULARY

        return {name: list(phrases) for name, phrases in VOCABULARY.items()}
    try:
        found = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"vocabulary={source!r} cannot be read ({error}); give synthetic or a JSON file") from error
    sound = isinstance(found, dict) and set(found) <= set(MODALITIES) and any(found.values())
    if not sound or not all(isinstance(own, list) and all(isinstance(x, str) for x in own) for own in found.values()):
        raise ValueError(
            f"vocabulary={source!r} must hold a JSON object with lists of phrases under {', '.join(MODALITIES)}"
        )
    return dict(found)


def _spelled(phrases: Sequence[str]) -> list[str]:
    return [normalise(phrase) for phrase in phrases]
