"""EMER's clue overlap and label overlap, by a judge.

The judge of the published numbers (gpt-3.5-turbo-16k-0613, asked in Chinese) is retired; the prompts here are our own,
in English. So scores are comparable only under the same judge and prompts: every score carries the judge's name and the
hash of the prompts. The wheel metric is the choice without a judge.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

from mosear.evaluation.judge import Judge
from mosear.inference.parsing import parse_list

_LOG = logging.getLogger(__name__)

CLUE_PROMPT = """Two descriptions of the same person in a video follow. Reduce each to what it says about emotion:
facial expression, gestures, voice, words, and the conclusions drawn from them. Then judge how much these clues overlap,
from 1 (nothing in common) to 10 (the same clues and conclusions).

Description A:
{reference}

Description B:
{answer}

Reply with one JSON object and nothing else: {{"score": <integer from 1 to 10>, "reason": "<one sentence>"}}"""

EMOTIONS_PROMPT = """Which emotions does the following description finally ascribe to the person? Where appearance and
conclusion differ, name the conclusion: "she looks happy but is in fact anxious" is anxious.

Description:
{text}

Reply with a bracketed comma list of emotion words and nothing else, [] if there are none."""

LABEL_PROMPT = """How far do two lists of emotion words mean the same? From 1 (nothing in common) to 10 (the same).

List A: {reference}
List B: {answer}

Reply with one JSON object and nothing else: {{"score": <integer from 1 to 10>, "reason": "<one sentence>"}}"""


def read_score(reply: str) -> int | None:
    """The integer ``score`` from 1 to 10 of a JSON reply (a code fence or text around the object is tolerated).

    None if there is none: a number somewhere in the text is not taken for a score.
    """
    start, end = reply.find("{"), reply.rfind("}")
    try:
        value: Any = json.loads(reply[start : end + 1])["score"] if start >= 0 else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10 else None


def clue_overlap(references: Sequence[str], answers: Sequence[str], judge: Judge) -> dict[str, Any]:
    """EMER's clue overlap: one call per clip scores from 1 to 10 how far the emotional clues of two texts overlap.

    ``score = mean_i s_i`` over the clips whose reply held a score. An empty answer counts as 1 without a call.

    Args:
        references: ``[N]`` gold descriptions.
        answers: ``[N]`` descriptions by the model.
        judge: whom to ask.

    Returns:
        ``metric``, ``judge``, ``prompt_sha256``, ``n``, ``unreadable`` (clips without a readable score, left out of the
        mean), ``score`` (NaN without any) and ``scores`` (``[N]``, None where unreadable).

    Raises:
        ValueError: if the lengths differ.
        JudgeError: if the judge cannot be asked.
    """
    _check_lengths(references, answers)
    _LOG.info("%s is asked about %d clips.", judge.name, len(answers))
    prompts = [
        CLUE_PROMPT.format(reference=reference.strip(), answer=answer.strip()) if answer.strip() else None
        for reference, answer in zip(references, answers, strict=True)
    ]
    scores = [1 if prompt is None else read_score(judge(prompt)) for prompt in prompts]
    return _summary("clue_overlap", judge, (CLUE_PROMPT,), scores)


def label_overlap(references: Sequence[str], answers: Sequence[str], judge: Judge) -> dict[str, Any]:
    """EMER's label overlap: two calls reduce both texts to emotion words, a third scores the two lists from 1 to 10.

    Where both lists are empty the score is 10, where one is, 1, without a third call. Arguments, result and errors are
    those of :func:`clue_overlap`, with the two ``words`` lists of every clip beside them.
    """
    _check_lengths(references, answers)
    _LOG.info("%s is asked about %d clips.", judge.name, len(answers))
    words = [tuple(emotion_words(text, judge) for text in pair) for pair in zip(references, answers, strict=True)]
    scores: list[int | None] = []
    for gold, found in words:
        if gold and found:
            reply = judge(LABEL_PROMPT.format(reference=", ".join(gold), answer=", ".join(found)))
            scores.append(read_score(reply))
        else:
            scores.append(10 if gold == found else 1)
    return _summary("label_overlap", judge, (EMOTIONS_PROMPT, LABEL_PROMPT), scores) | {"words": words}


def emotion_words(text: str, judge: Judge) -> list[str]:
    """The emotions that a description ascribes, as the judge lists them, sorted; [] for an empty text, without a call.

    They are also what the set and wheel metrics take as predicted words of a model that answers in prose.
    """
    if not text.strip():
        return []
    reply = judge(EMOTIONS_PROMPT.format(text=text.strip()))
    start, end = reply.find("["), reply.rfind("]")
    return sorted(set(parse_list(reply[start : end + 1] if 0 <= start < end else reply)))


def _check_lengths(references: Sequence[str], answers: Sequence[str]) -> None:
    if len(references) != len(answers):
        raise ValueError(f"got {len(references)} references but {len(answers)} answers; pass one answer per clip.")


def _summary(metric: str, judge: Judge, prompts: Sequence[str], scores: Sequence[int | None]) -> dict[str, Any]:
    read = [score for score in scores if score is not None]
    return {
        "metric": metric,
        "judge": judge.name,
        "prompt_sha256": hashlib.sha256("\0".join(prompts).encode()).hexdigest(),
        "n": len(scores),
        "unreadable": len(scores) - len(read),
        "score": sum(read) / len(read) if read else float("nan"),
        "scores": list(scores),
    }
