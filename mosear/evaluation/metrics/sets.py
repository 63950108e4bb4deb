"""Open-vocabulary answers: sets of emotion words against sets of emotion words.

With ``P`` the predicted and ``G`` the gold set of a clip, both after matching words that mean the same, and ``t = |P &
G|``::

    precision_i = t / |P|        recall_i = t / |G|        both 0 where P is empty

A clip without gold words has nothing to find: it is left out and counted in ``skipped``. Adding words to an answer can
only raise its recall, so the mean number of predicted words stands beside every score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Words = Collection[str]


def mean(values: Sequence[float]) -> float:
    """Plain mean; NaN of nothing."""
    return sum(values) / len(values) if values else float("nan")


def f_score(precision: float, recall: float) -> float:
    """``F = 2 P R / (P + R)``; 0 where both are 0, NaN where one is NaN."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def tidy(words: Iterable[str]) -> list[str]:
    """Lower-case, trimmed, without empty words and repetitions, in order of first appearance."""
    return [word for word in dict.fromkeys(word.strip().lower() for word in words) if word]


def set_scores(
    y_true: Sequence[Words],
    y_pred: Sequence[Words],
    *,
    match: Callable[[str], str | None] | None = None,
) -> dict[str, Any]:
    """Set precision and recall, averaged over clips: the set-level metric of MER2024-OV and CA-MER.

    ``precision = mean_i precision_i`` (there called "Acc", though it is a precision), ``recall = mean_i recall_i``,
    ``avg = (precision + recall) / 2``, and ``f1`` of the two means. ``pooled_precision = sum t / sum |P|`` and
    ``pooled_recall = sum t / sum |G|`` weigh words instead of clips; they are other numbers and not what is published.

    Args:
        y_true: ``[N]`` gold words of each clip.
        y_pred: ``[N]`` predicted words of each clip.
        match: maps a tidied word to its group's name, or to None to drop it; None compares the words themselves.

    Returns:
        ``n`` (clips scored), ``skipped`` (clips whose gold set is empty), ``empty`` (scored clips whose predicted set
        is), ``precision``, ``recall``, ``avg``, ``f1``, ``pooled_precision``, ``pooled_recall``, and ``mean_predicted``
        (words per scored clip as the model gave them, before matching). Everything that is a mean is NaN for ``n = 0``.

    Raises:
        ValueError: if the lengths differ, or a clip's words are one string instead of a list of words.
    """
    clips = matched_sets(y_true, y_pred, match)
    scored = [clip for clip in clips if clip[0]]
    hits = [len(gold & found) for gold, found, _ in scored]
    precisions = [t / len(found) if found else 0.0 for t, (_, found, _) in zip(hits, scored, strict=True)]
    recalls = [t / len(gold) for t, (gold, _, _) in zip(hits, scored, strict=True)]
    precision, recall = mean(precisions), mean(recalls)
    predicted, wanted = sum(len(found) for _, found, _ in scored), sum(len(gold) for gold, _, _ in scored)
    return {
        "n": len(scored),
        "skipped": len(clips) - len(scored),
        "empty": sum(not found for _, found, _ in scored),
        "precision": precision,
        "recall": recall,
        "avg": (precision + recall) / 2,
        "f1": f_score(precision, recall),
        "pooled_precision": sum(hits) / predicted if predicted else (0.0 if scored else float("nan")),
        "pooled_recall": sum(hits) / wanted if wanted else float("nan"),
        "mean_predicted": mean([given for _, _, given in scored]),
    }


def matched_sets(
    y_true: Sequence[Words], y_pred: Sequence[Words], match: Callable[[str], str | None] | None
) -> list[tuple[set[str], set[str], int]]:
    """Per clip: gold set, predicted set, both after matching, and how many words the model gave."""
    if len(y_true) != len(y_pred):
        raise ValueError(f"y_true has {len(y_true)} entries but y_pred has {len(y_pred)}; pass one answer per clip.")
    for words in (*y_true, *y_pred):
        if isinstance(words, str):
            raise ValueError(f"{words!r} is one string; pass a list of words (mosear.inference.parsing.parse_words).")

    def matched(words: Iterable[str]) -> set[str]:
        found = words if match is None else (match(word) for word in words)
        return {word for word in found if word is not None}

    clips = []
    for truth, prediction in zip(y_true, y_pred, strict=True):
        given = tidy(prediction)
        clips.append((matched(tidy(truth)), matched(given), len(given)))
    return clips


@dataclass(frozen=True)
class SynonymGroups:
    """Groups of words that mean the same, supplied by the user or written by a judge.

    MER2024-OV lets a language model group all gold and predicted words; a word stands for the first of its group, and a
    word without a group for itself.

    Attributes:
        first: ``{word: first word of its group}``.
        version: name of the table, stored in every score.
    """

    first: Mapping[str, str]
    version: str

    @classmethod
    def from_groups(cls, groups: Iterable[Sequence[str]], *, version: str) -> SynonymGroups:
        """Builds the table from lists of words.

        Raises:
            ValueError: if a word stands in two groups, or the version is blank.
        """
        if not version.strip():
            raise ValueError("a synonym table needs a version: scores under different tables are not comparable.")
        first: dict[str, str] = {}
        for group in groups:
            words = tidy(group)
            for word in words:
                if first.setdefault(word, words[0]) != words[0]:
                    raise ValueError(f"{word!r} is in the group of {first[word]!r} and in that of {words[0]!r}.")
        return cls(first, version)

    def __call__(self, word: str) -> str:
        """The word that stands for the group of a tidied word."""
        return self.first.get(word, word)

    @property
    def sha256(self) -> str:
        """Fingerprint of the content, whatever the version claims."""
        return hashlib.sha256(json.dumps(sorted(self.first.items())).encode()).hexdigest()


def synonym_scores(y_true: Sequence[Words], y_pred: Sequence[Words], groups: SynonymGroups) -> dict[str, Any]:
    """:func:`set_scores` by synonym groups (MER2024-OV; CA-MER's published metric), with the table's version in it."""
    scores = set_scores(y_true, y_pred, match=groups)
    return {"metric": "synonym_groups", "table_version": groups.version, "table_sha256": groups.sha256, **scores}
