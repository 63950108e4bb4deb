"""Transcripts that narrow the emotion down without telling it.

A transcript is a bland template around a clause. A cue clause fits exactly two emotions, an idle clause fits all six.
So text alone never settles an answer, but text together with two contradicting cues does when it fits just one of them.
No transcript contains a label word.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np

from mosear.data.synthetic.emotions import EMOTIONS, emotion_index

PAIR_CLAUSES: dict[tuple[str, str], tuple[str, ...]] = {
    ("neutral", "angry"): (
        "the parcel went to the wrong address again",
        "they moved the meeting once more",
        "the form has to be filled in a second time",
        "the neighbours are drilling before seven",
    ),
    ("neutral", "happy"): (
        "the bus was on time today",
        "we are having pancakes tonight",
        "the office is closed on friday",
        "the garden gets the sun until six",
    ),
    ("neutral", "sad"): (
        "the old cinema closes in march",
        "nobody else is coming tonight",
        "he took his coat and left",
        "her room is empty now",
    ),
    ("neutral", "worried"): (
        "the doctor calls back at five",
        "the exam starts at nine",
        "she has not answered yet",
        "the bank wants to see us on monday",
    ),
    ("neutral", "surprise"): (
        "the shop moved across the street",
        "the train left ten minutes early",
        "there is a new door in the hall",
        "the sign is written in latin",
    ),
    ("angry", "happy"): (
        "he got what was coming to him",
        "they had to pay back every penny",
        "I told them what I think of them",
        "she finally threw him out",
    ),
    ("angry", "sad"): (
        "they sold our house without asking",
        "he forgot my birthday again",
        "nobody stood up for her",
        "they cut down the trees by the school",
    ),
    ("angry", "worried"): (
        "someone has been reading my mail",
        "he drove home drunk again",
        "they still have not paid my wages",
        "the landlord wants us out by june",
    ),
    ("angry", "surprise"): (
        "he sold my bike behind my back",
        "they towed the car overnight",
        "she hung up on me",
        "he took all the credit for it",
    ),
    ("happy", "sad"): (
        "our daughter is leaving for college",
        "it was our last summer by the lake",
        "I found his old letters in the attic",
        "they played our song at the farewell",
    ),
    ("happy", "worried"): (
        "we are going to have twins",
        "they gave me the lead role",
        "tomorrow we sign for the house",
        "she is learning to ride a motorbike",
    ),
    ("happy", "surprise"): (
        "my cousin came home a week early",
        "I won the raffle",
        "they named the boat after me",
        "he asked me to marry him",
    ),
    ("sad", "worried"): (
        "grandpa is back in hospital",
        "the cat has not come home",
        "they are closing the factory",
        "she hardly eats any more",
    ),
    ("sad", "surprise"): (
        "she moved away without a word",
        "the old oak fell last night",
        "they broke up after twenty years",
        "he did not know me any more",
    ),
    ("worried", "surprise"): (
        "there is water coming through the ceiling",
        "somebody knocked at three in the morning",
        "the brakes stopped working",
        "all the lights went out at once",
    ),
}

IDLE_CLAUSES: tuple[str, ...] = (
    "it is ten past four",
    "the keys are on the table",
    "I am calling from the kitchen",
    "the number is on the card",
    "we talked on the phone",
    "that is the second page",
    "the blue folder is mine",
    "I was there with my sister",
    "the window faces the yard",
    "they live on the third floor",
)

TRAIN_TEMPLATES: tuple[str, ...] = (
    "{clause}.",
    "listen, {clause}.",
    "well, {clause}, as I said.",
    "you know, {clause}.",
    "so {clause}, and that is it.",
    "I mean, {clause}.",
    "okay, {clause}, right.",
    "as you see, {clause}.",
    "look, {clause}, you know.",
    "and then, {clause}.",
    "yes, {clause}, I think.",
    "just so you know, {clause}.",
)
"""Templates of the splits train and val."""

TEST_TEMPLATES: tuple[str, ...] = (
    "what I said was, {clause}.",
    "to put it shortly, {clause}.",
    "hm, {clause}, anyway.",
    "by the way, {clause}.",
    "the thing is, {clause}.",
    "let me say it again, {clause}.",
    "here it is, {clause}, that is all.",
)
"""Templates of the split test; none of them is seen in training."""

LABEL_WORDS = re.compile(
    r"\b(neutral\w*|anger\w*|angr\w+|happ(?:y|ier|iest|il\w+|iness)|unhapp\w+|sad|sadd?(?:er|est|ly|en\w*|ness)"
    r"|worr(?:y|ie[ds]|ying|isome)\w*|surpris\w*)\b",
    re.IGNORECASE,
)
"""The label words and their close derivatives, which no transcript may contain."""


def canonical_pair(pair: Iterable[str]) -> tuple[str, str]:
    """Two different emotions in the order of `EMOTIONS`."""
    members = sorted(set(pair), key=emotion_index)
    if len(members) != 2:
        raise ValueError(f"A transcript's pair needs two different emotions, got {members}.")
    return members[0], members[1]


def templates(split: str) -> tuple[str, ...]:
    """Templates of a split: train and val share theirs, test has its own."""
    if split not in ("train", "val", "test"):
        raise ValueError(f"Unknown split {split!r}; use train, val or test.")
    return TEST_TEMPLATES if split == "test" else TRAIN_TEMPLATES


def pair_transcript(pair: Iterable[str], split: str, rng: np.random.Generator) -> str:
    """Draws a transcript that fits exactly the two given emotions."""
    return _compose(PAIR_CLAUSES[canonical_pair(pair)], split, rng)


def idle_transcript(split: str, rng: np.random.Generator) -> str:
    """Draws a transcript that fits all six emotions."""
    return _compose(IDLE_CLAUSES, split, rng)


def compatible(text: str) -> tuple[str, ...]:
    """The emotions a transcript fits, in the order of `EMOTIONS`; a foreign text is a `ValueError`."""
    for template in (*TRAIN_TEMPLATES, *TEST_TEMPLATES):
        before, after = template.split("{clause}")
        if text.startswith(before) and text.endswith(after):
            emotions = _CLAUSE_EMOTIONS.get(text[len(before) : len(text) - len(after)])
            if emotions is not None:
                return emotions
    raise ValueError(f"{text!r} is not a transcript of the synthetic corpus: no template and clause give it.")


def all_texts() -> Iterator[str]:
    """Every training template around every clause, for training a tokenizer."""
    for template in TRAIN_TEMPLATES:
        for clause in _CLAUSE_EMOTIONS:
            yield template.format(clause=clause)


def _compose(clauses: tuple[str, ...], split: str, rng: np.random.Generator) -> str:
    choices = templates(split)
    return choices[rng.integers(len(choices))].format(clause=clauses[rng.integers(len(clauses))])


_CLAUSE_EMOTIONS: dict[str, tuple[str, ...]] = {
    **{clause: pair for pair, clauses in PAIR_CLAUSES.items() for clause in clauses},
    **dict.fromkeys(IDLE_CLAUSES, EMOTIONS),
}
