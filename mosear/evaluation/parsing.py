"""From a generated answer to a label of the vocabulary, or to a reason why not.

An answer that cannot be read is not guessed: it comes back without a label, and evaluation counts it as wrong.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

AnswerFormat = Literal["word", "tags", "json"]

_THINK = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_CODE_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL | re.IGNORECASE)
_JSON_KEY = "final_label"


@dataclass(frozen=True)
class ParsedAnswer:
    """Exactly one of the two is set.

    Attributes:
        label: the label in the spelling of the label list, or None.
        reason: why there is no label, or None.
    """

    label: str | None
    reason: str | None = None


def normalise(text: str) -> str:
    """NFKC, case-folded, every run of punctuation, underscores and spaces turned into one space, trimmed."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", " ", folded).strip()


def parse_answer(
    text: str | None,
    labels: Sequence[str],
    *,
    answer_format: AnswerFormat = "word",
    synonyms: Mapping[str, str] | None = None,
) -> ParsedAnswer:
    """Reads one label from a generated answer.

    * ``word``: the whole answer is a label, else exactly one label occurs in it as whole words. Where one label is
      part of another ("happy", "happy for you") the longest match wins. Negation is not understood: "not happy" reads
      as "happy".
    * ``tags``: like ``word``, on the text inside ``<answer>..</answer>``; everything inside ``<think>..</think>`` is
      ignored. Without an answer tag there is no label, since reasoning usually names several emotions.
    * ``json``: one object (a Markdown code fence is tolerated) whose string ``final_label`` is a label as a whole.

    Args:
        text: the generated answer.
        labels: the label list; matching ignores case, width and punctuation.
        answer_format: "word", "tags" or "json".
        synonyms: other spellings, as ``{spelling: label}``.

    Returns:
        The label, or None with a reason: "empty", "no label", "ambiguous: happy, sad", "no <answer> tag", ...

    Raises:
        ValueError: for an unknown format, or labels and synonyms that cannot be told apart.
    """
    vocabulary = _vocabulary(labels, synonyms or {})
    if answer_format not in get_args(AnswerFormat):
        raise ValueError(f"unknown answer_format {answer_format!r}; choose one of {', '.join(get_args(AnswerFormat))}.")
    if text is None or not text.strip():
        return ParsedAnswer(None, "empty")
    if answer_format == "json":
        return _parse_json(text, vocabulary)
    if answer_format == "tags":
        blocks = _ANSWER.findall(_THINK.sub(" ", text))
        if not blocks:
            return ParsedAnswer(None, "no <answer> tag")
        # Several blocks are read together: they may repeat one label, but two labels are ambiguous.
        text = "\n".join(blocks)
    return _parse_words(text, vocabulary)


def _vocabulary(labels: Sequence[str], synonyms: Mapping[str, str]) -> dict[str, str]:
    """Maps each normalised spelling to its label."""
    vocabulary: dict[str, str] = {}
    unknown = sorted(set(synonyms.values()) - set(labels))
    if unknown:
        raise ValueError(f"synonyms point to {unknown}, which are not in the label list {list(labels)}.")
    for spelling, label in [*((label, label) for label in labels), *synonyms.items()]:
        key = normalise(spelling)
        if not key:
            raise ValueError(f"label or synonym {spelling!r} has no letters or digits to match.")
        if vocabulary.setdefault(key, label) != label:
            raise ValueError(f"{spelling!r} reads as both {vocabulary[key]!r} and {label!r}; rename one of them.")
    return vocabulary


def _parse_words(text: str, vocabulary: Mapping[str, str]) -> ParsedAnswer:
    answer = normalise(text)
    if not answer:
        return ParsedAnswer(None, "empty")
    if answer in vocabulary:
        return ParsedAnswer(vocabulary[answer])
    # Alternation tries the spellings in order, so the longest one wins at each position.
    spellings = "|".join(re.escape(spelling) for spelling in sorted(vocabulary, key=len, reverse=True))
    found = (
        {vocabulary[match] for match in re.findall(rf"(?<!\w)(?:{spellings})(?!\w)", answer)} if spellings else set()
    )
    if len(found) == 1:
        return ParsedAnswer(found.pop())
    return ParsedAnswer(None, f"ambiguous: {', '.join(sorted(found))}" if found else "no label")


def _parse_json(text: str, vocabulary: Mapping[str, str]) -> ParsedAnswer:
    stripped = text.strip()
    fenced = _CODE_FENCE.match(stripped)
    try:
        # Pairs instead of a dict: a key given twice would otherwise be resolved silently.
        value: Any = json.loads(fenced.group(1) if fenced else stripped, object_pairs_hook=_Pairs)
    except (json.JSONDecodeError, RecursionError):
        return ParsedAnswer(None, "invalid JSON")
    finals = [item for key, item in value if key == _JSON_KEY] if isinstance(value, _Pairs) else []
    if not finals:
        return ParsedAnswer(None, f"no {_JSON_KEY}")
    if len(finals) > 1:
        return ParsedAnswer(None, f"ambiguous: {_JSON_KEY} is given {len(finals)} times")
    if not isinstance(finals[0], str):
        return ParsedAnswer(None, f"{_JSON_KEY} is not a string")
    answer = normalise(finals[0])
    if not answer:
        return ParsedAnswer(None, "empty")
    label = vocabulary.get(answer)
    return ParsedAnswer(label, None if label is not None else "no label")


class _Pairs(list):
    """A JSON object as its list of (key, value) pairs; a type of its own, unlike a JSON array."""
