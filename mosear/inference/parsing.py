"""From a generated answer to a label of the vocabulary, or to a reason why not.

An answer that cannot be read is not guessed: it comes back without a label, and evaluation counts it as wrong.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from mosear.data.prompt import AnswerFormat

_THINK = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_THINK_END = re.compile(r"</think>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)
_RLVR = re.compile(r"\s*<think>.*</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
_RLVR_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_CODE_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL | re.IGNORECASE)
_JSON_KEY = "final_label"
_SCORE = re.compile(r"[-+]?\d+(?:\.\d+)?")
_SCORE_IN_TEXT = re.compile(rf"(?<![\w.]){_SCORE.pattern}(?!\w)")
_MINUS = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------")
"""Dashes that models write for a minus."""


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


def strict_normalise(text: str) -> str:
    """NFKC, trimmed, lower-case, and nothing else: punctuation stays."""
    return unicodedata.normalize("NFKC", text).strip().lower()


def parse_list(text: str | float | None) -> list[str]:
    """Emotion words from a list as models and label files write it: ``['a', 'b c']``, ``[a, b]``, ``a``, or nothing.

    As MER2024-OV and its successors do it: one leading "[" and one trailing "]" go, the rest is cut at every ``'``,
    ``"`` and ``,``, trimmed, and lower-cased; empty pieces are dropped. None and NaN (missing cells) are the empty
    list. Cutting at apostrophes tears "don't care" apart; that is part of the published scores.

    Raises:
        ValueError: for a number other than NaN.
    """
    if text is None or text != text:
        return []
    if not isinstance(text, str):
        raise ValueError(f"a list of emotion words is text, got {text!r}.")
    cell = text.strip().removeprefix("[").removesuffix("]")
    return [word for piece in re.split("['\",]", cell) if (word := piece.strip().lower())]


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
    * ``rlvr``: the whole text is ``<think>..</think>`` then ``<answer>..</answer>``, each tag once and only blanks
      between and around (R1-Omni's format reward); what stands in the answer, over any number of lines, is a label as a
      whole.
    * ``strict_json``: VISTA's protocol for CA-MER. Nothing but one JSON object, in which a string ``final_label``
      stands once; it is brought to NFKC, trimmed and lower-cased, and must then be a label or a synonym: "sad." is
      invalid.

    Labels that are numbers with signs or decimals ("-0.4") are scores: ``word`` and ``tags`` read the one number in
    the text, which must equal a label ("+1.0" equals "1.0"), and the other formats keep punctuation.

    Args:
        text: the generated answer.
        labels: the label list; matching ignores case, width and punctuation.
        answer_format: "word", "tags", "json", "rlvr" or "strict_json".
        synonyms: other spellings, as ``{spelling: label}``.

    Returns:
        The label, or None with a reason: "empty", "no label", "ambiguous: happy, sad", "no <answer> tag", ...

    Raises:
        ValueError: for an unknown format, or labels and synonyms that cannot be told apart.
    """
    scores = are_scores(labels)
    clean = strict_normalise if answer_format == "strict_json" or scores else normalise
    vocabulary = _vocabulary(labels, synonyms or {}, clean)
    if answer_format not in get_args(AnswerFormat):
        raise ValueError(f"unknown answer_format {answer_format!r}; choose one of {', '.join(get_args(AnswerFormat))}.")
    if text is None or not text.strip():
        return ParsedAnswer(None, "empty")
    if answer_format == "json":
        fenced = _CODE_FENCE.match(text.strip())
        return _parse_json(fenced.group(1) if fenced else text, vocabulary, clean)
    if answer_format == "strict_json":
        return _parse_json(text, vocabulary, clean)
    if answer_format == "rlvr":
        return _parse_rlvr(text, vocabulary, clean)
    if answer_format == "tags":
        blocks = _answer_blocks(text)
        if not blocks:
            return ParsedAnswer(None, "no <answer> tag")
        # Several blocks are read together: they may repeat one label, but two labels are ambiguous.
        text = "\n".join(blocks)
    return _parse_score(text, labels) if scores else _parse_words(text, vocabulary)


def are_scores(labels: Sequence[str]) -> bool:
    """Are the labels numbers, some with a sign or decimals?"""
    return all(map(_SCORE.fullmatch, labels)) and not all(label.isdigit() for label in labels)


def _parse_score(text: str, labels: Sequence[str]) -> ParsedAnswer:
    values = {float(label): label for label in labels}
    written = _SCORE_IN_TEXT.findall(unicodedata.normalize("NFKC", text).translate(_MINUS))
    found = sorted({float(number) for number in written})
    if len(found) > 1:
        return ParsedAnswer(None, f"ambiguous: {', '.join(f'{value:g}' for value in found)}")
    if not found or found[0] not in values:
        return ParsedAnswer(None, "no label")
    return ParsedAnswer(values[found[0]])


def _answer_blocks(text: str) -> list[str]:
    # Behind the last closing tag no block can end, and a search for one from every opening tag there is quadratic.
    thought = _end_of_last(_THINK_END, text)
    said = _THINK.sub(" ", text[:thought]) + text[thought:]
    return _ANSWER.findall(said[: _end_of_last(_ANSWER_END, said)])


def _end_of_last(tag: re.Pattern[str], text: str) -> int:
    return max((match.end() for match in tag.finditer(text)), default=0)


def _vocabulary(labels: Sequence[str], synonyms: Mapping[str, str], clean: Callable[[str], str]) -> dict[str, str]:
    """Maps each normalised spelling to its label."""
    vocabulary: dict[str, str] = {}
    unknown = sorted(set(synonyms.values()) - set(labels))
    if unknown:
        raise ValueError(f"synonyms point to {unknown}, which are not in the label list {list(labels)}.")
    for spelling, label in [*((label, label) for label in labels), *synonyms.items()]:
        key = clean(spelling)
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


def rlvr_answer(text: str) -> str | None:
    """What stands in the answer of a text that has the form ``rlvr``; ``None`` for other texts."""
    # Counting first keeps the match linear, and refuses a second answer that a lazy pattern would swallow.
    match = _RLVR.fullmatch(text) if all(text.count(tag) == 1 for tag in _RLVR_TAGS) else None
    return None if match is None else match.group(1)


def _parse_rlvr(text: str, vocabulary: Mapping[str, str], clean: Callable[[str], str]) -> ParsedAnswer:
    answer = rlvr_answer(text)
    if answer is None:
        return ParsedAnswer(None, "not <think>..</think><answer>..</answer>")
    return _parse_whole(answer, vocabulary, clean)


def _parse_whole(text: str, vocabulary: Mapping[str, str], clean: Callable[[str], str]) -> ParsedAnswer:
    answer = clean(text)
    if not answer:
        return ParsedAnswer(None, "empty")
    label = vocabulary.get(answer)
    return ParsedAnswer(label, None if label is not None else "no label")


def _parse_json(text: str, vocabulary: Mapping[str, str], clean: Callable[[str], str]) -> ParsedAnswer:
    try:
        # Pairs instead of a dict: a key given twice would otherwise be resolved silently.
        value: Any = json.loads(text.strip(), object_pairs_hook=_Pairs, parse_constant=_refuse)
    except (ValueError, RecursionError):  # ValueError: also for integers too long to convert
        return ParsedAnswer(None, "invalid JSON")
    finals = [item for key, item in value if key == _JSON_KEY] if isinstance(value, _Pairs) else []
    if not finals:
        return ParsedAnswer(None, f"no {_JSON_KEY}")
    if len(finals) > 1:
        return ParsedAnswer(None, f"ambiguous: {_JSON_KEY} is given {len(finals)} times")
    if not isinstance(finals[0], str):
        return ParsedAnswer(None, f"{_JSON_KEY} is not a string")
    return _parse_whole(finals[0], vocabulary, clean)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class _Pairs(list):
    """A JSON object as its list of (key, value) pairs; a type of its own, unlike a JSON array."""
