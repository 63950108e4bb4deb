"""Open-vocabulary scores by emotion wheels, without a language model (MER2025 / MER2026, MER-UniBench).

A word is mapped, on each of five wheels, to a node of the wheel's inner ring (level 1) or middle ring (level 2)::

    word -> base forms it is a form of -> wheel words these are synonyms of
         -> the alphabetically first of them that occurs on the wheel -> its node

A word that leads nowhere is dropped. The tables are the user's (:mod:`mosear.evaluation.metrics.wheel_tables` reads and
audits them); their version and fingerprint are in every score, because versions differ: with the tables of 2025 "fear"
reads as a happy word on four of the five wheels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

from mosear.evaluation.metrics.sets import Words, matched_sets, mean, set_scores, tidy

Level = Literal["level1", "level2"]
UNIBENCH_PRIMARIES = ("MER2023", "MER2024", "MELD", "IEMOCAP", "MOSI", "MOSEI", "SIMS", "SIMSv2", "OV-MERD+")


@dataclass(frozen=True)
class EmotionWheels:
    """The tables that carry a word to a node.

    Attributes:
        version: name of the tables, such as "MER2026"; stored in every score.
        formats: ``{form: base forms}``, such as ``{"feared": ("fear",)}``.
        synonyms: ``{base form: wheel words}``.
        wheels: ``{wheel: {"level1": {wheel word: node}, "level2": {wheel word: node}}}``.
    """

    version: str
    formats: Mapping[str, Sequence[str]]
    synonyms: Mapping[str, Sequence[str]]
    wheels: Mapping[str, Mapping[Level, Mapping[str, str]]] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.version.strip():
            raise ValueError("wheel tables need a version: scores under different tables are not comparable.")
        if not self.wheels:
            raise ValueError("wheel tables need at least one wheel, got none.")
        for name, levels in self.wheels.items():
            if "level1" not in levels or "level2" not in levels:
                raise ValueError(f"wheel {name!r} has {', '.join(levels) or 'no levels'}; it needs level1 and level2.")

    def candidates(self, word: str) -> list[str]:
        """The wheel words that a tidied word leads to, on any wheel, in alphabetical order."""
        return sorted({found for base in self.formats.get(word, ()) for found in self.synonyms.get(base, ())})

    def node(self, word: str, *, wheel: str, level: Level = "level1") -> str | None:
        """The node of a tidied word, or None if it leads nowhere on this wheel."""
        nodes = self.wheels[wheel][level]
        return next((nodes[found] for found in self.candidates(word) if found in nodes), None)

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of the content, whatever the version claims."""
        content = [
            {key: sorted(values) for key, values in self.formats.items()},
            {key: sorted(values) for key, values in self.synonyms.items()},
            {name: {level: dict(nodes) for level, nodes in levels.items()} for name, levels in self.wheels.items()},
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def stamp(self) -> dict[str, str]:
        """``table_version`` and ``table_sha256``, for a score."""
        return {"table_version": self.version, "table_sha256": self.sha256}


def wheel_scores(
    y_true: Sequence[Words], y_pred: Sequence[Words], tables: EmotionWheels, *, level: Level = "level1"
) -> dict[str, Any]:
    """Set precision, recall and F by emotion wheel (MER2025 / MER2026: "EW").

    On each wheel ``w``: sets of nodes per clip, clips without gold nodes left out, then ``P_w`` and ``R_w`` as means
    over clips and ``F_w = 2 P_w R_w / (P_w + R_w)``, 0 where both are 0. The scores are the means over the wheels.
    MER2025 ranks by the mean of ``f1`` on both levels, MER2026 by level 1 alone.

    Args:
        y_true: ``[N]`` gold words of each clip.
        y_pred: ``[N]`` predicted words of each clip.
        tables: the wheels.
        level: inner ("level1") or middle ("level2") ring.

    Returns:
        ``metric``, the tables' stamp, ``level``, ``f1``, ``precision``, ``recall``, ``mean_predicted``, and
        ``per_wheel``: each wheel's :func:`set_scores`. A wheel on which no clip has a gold node makes the means NaN.
    """
    per_wheel = {
        name: set_scores(y_true, y_pred, match=partial(tables.node, wheel=name, level=level)) for name in tables.wheels
    }
    return {
        "metric": "emotion_wheel",
        **tables.stamp(),
        "level": level,
        **{name: mean([scores[name] for scores in per_wheel.values()]) for name in ("f1", "precision", "recall")},
        "mean_predicted": mean([len(tidy(words)) for words in y_pred]),
        "per_wheel": per_wheel,
    }


def wheel_headline(level1: Mapping[str, Any], level2: Mapping[str, Any]) -> float:
    """MER2025's headline: the mean of F on level 1 and on level 2, which must come from the same tables."""
    for scores, level in ((level1, "level1"), (level2, "level2")):
        if scores["level"] != level:
            raise ValueError(f"expected the scores of {level}, got those of {scores['level']}.")
    if level1["table_sha256"] != level2["table_sha256"]:
        raise ValueError(f"the levels were scored by different tables: {level1['table_version']} "
                         f"and {level2['table_version']}.")  # fmt: skip
    return (level1["f1"] + level2["f1"]) / 2


def hit_rate(y_true: Sequence[str], y_pred: Sequence[Words], tables: EmotionWheels) -> dict[str, Any]:
    """MER-UniBench's hit rate: is the gold label's node among the nodes of the predicted words?

    ``hit_i = |{node(gold)} & {node(word)}|`` is 0 or 1; mean over the clips whose gold label has a node, then over the
    wheels. Two weaknesses of it are made visible. Naming every emotion scores 1: ``mean_predicted`` says how many words
    an answer has. Clips whose gold label has no node vanish, on the published wheels all that are "neutral":
    ``coverage`` is the share that stays, and ``macro_accuracy`` is a control of our own with all clips and one answer::

        correct_i = the answer is one word: the gold label, or a word with its node on more than half of the wheels
        macro_accuracy = mean over gold labels of the mean of correct_i over the label's clips

    Args:
        y_true: ``[N]`` one gold label per clip.
        y_pred: ``[N]`` predicted words of each clip.
        tables: the wheels.

    Returns:
        ``metric``, the tables' stamp, ``n``, ``hit_rate``, ``mean_predicted``, ``coverage``, ``macro_accuracy``, and
        ``per_wheel`` with ``hit_rate`` and ``n`` (clips with a gold node) each. NaN for no clips; a wheel without any
        gold node has the hit rate NaN, and so has the mean.
    """
    gold = [[label] for label in y_true]
    per_wheel: dict[str, dict[str, float]] = {}
    for name in tables.wheels:
        clips = matched_sets(gold, y_pred, partial(tables.node, wheel=name))
        hits = [float(len(truth & found)) for truth, found, _ in clips if truth]
        per_wheel[name] = {"hit_rate": mean(hits), "n": len(hits)}
    words = [tidy(prediction) for prediction in y_pred]
    correct: dict[str, list[float]] = {}
    for label, given in zip(y_true, words, strict=True):
        correct.setdefault(label, []).append(float(_same(label, given, tables)))
    return {
        "metric": "hit_rate",
        **tables.stamp(),
        "n": len(gold),
        "hit_rate": mean([scores["hit_rate"] for scores in per_wheel.values()]),
        "mean_predicted": mean([len(given) for given in words]),
        "coverage": mean([scores["n"] / len(gold) for scores in per_wheel.values()]) if gold else float("nan"),
        "macro_accuracy": mean([mean(values) for values in correct.values()]),
        "per_wheel": per_wheel,
    }


def _same(label: str, given: Sequence[str], tables: EmotionWheels) -> bool:
    gold = tidy([label])
    if len(given) != 1 or not gold:
        return False
    if list(given) == gold:
        return True
    pairs = [(tables.node(gold[0], wheel=name), tables.node(given[0], wheel=name)) for name in tables.wheels]
    return 2 * sum(a is not None and a == b for a, b in pairs) > len(pairs)


def unibench_mean(primaries: Mapping[str, float]) -> float:
    """MER-UniBench's summary: the plain mean of its nine primary scores.

    Hit rate on MER2023 (test1, 411 clips), MER2024, MELD and IEMOCAP (4 classes, session 5); weighted F1 (``non0``) on
    MOSI, MOSEI, SIMS and SIMSv2; wheel F on OV-MERD+.

    Raises:
        ValueError: unless exactly :data:`UNIBENCH_PRIMARIES` are given.
    """
    if set(primaries) != set(UNIBENCH_PRIMARIES):
        raise ValueError(f"MER-UniBench's mean is over {', '.join(UNIBENCH_PRIMARIES)}; got {', '.join(primaries)}.")
    return mean([float(value) for value in primaries.values()])
