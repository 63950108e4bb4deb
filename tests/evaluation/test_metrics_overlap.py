import math
import re

import pytest

from mosear.evaluation import metrics
from mosear.evaluation.metrics.overlap import CLUE_PROMPT, LABEL_PROMPT, emotion_words, read_score


class KeywordJudge:
    """Judges by shared words: 1 + 9 |A & B| / |A | B|; knows five emotions and the order of the prompt."""

    name = "keywords-1"
    known = ("happy", "sad", "angry", "anxious", "calm")

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.asked.append(prompt)
        if "Reply with a bracketed" in prompt:
            text = prompt.split("Description:\n")[1].split("\n\nReply")[0]
            return f"[{', '.join(word for word in self.known if word in text)}]"
        first, second = re.split(r"Description B:|List B:", prompt.split("\n\nReply")[0])
        a, b = (set(re.findall(r"\w+", part.rpartition(":")[2].lower())) for part in (first, second))
        score = 1 + round(9 * len(a & b) / len(a | b))
        return f'{{"score": {score}, "reason": "{len(a & b)} words"}}'


def test_clue_overlap():
    judge = KeywordJudge()
    gold = ["she smiles widely", "he frowns and shouts", "she cries"]
    scores = metrics.clue_overlap(gold, ["she smiles widely", "a quiet room", " "], judge)
    assert scores["scores"] == [10, 1, 1]
    assert scores["score"] == 4
    assert (scores["n"], scores["unreadable"]) == (3, 0)
    assert scores["judge"] == "keywords-1"
    assert len(judge.asked) == 2, "an empty answer needs no judge"
    assert judge.asked[0] == CLUE_PROMPT.format(reference=gold[0], answer=gold[0])


def test_label_overlap():
    judge = KeywordJudge()
    gold = ["looks happy but is anxious", "angry", "nothing to see", "calm", "sad"]
    answers = ["anxious and happy", "", "an empty street", "a wall", "sad or angry"]
    scores = metrics.label_overlap(gold, answers, judge)
    assert scores["words"][0] == (["anxious", "happy"], ["anxious", "happy"])
    assert scores["scores"] == [10, 1, 10, 1, 5]
    assert scores["score"] == pytest.approx(27 / 5)
    assert scores["prompt_sha256"] != metrics.clue_overlap([], [], judge)["prompt_sha256"]
    assert sum(prompt.startswith(LABEL_PROMPT[:40]) for prompt in judge.asked) == 2


def test_words_of_a_description_feed_the_set_metrics():
    judge = KeywordJudge()
    predicted = [emotion_words(text, judge) for text in ("sad and angry", "", "calm")]
    assert predicted == [["angry", "sad"], [], ["calm"]]
    assert metrics.set_scores([["sad"], ["sad"], ["calm"]], predicted)["recall"] == pytest.approx(2 / 3)


def test_braces_in_a_text_are_text():
    judge = KeywordJudge()
    metrics.clue_overlap(["{answer} {0}"], ["{reference}"], judge)
    assert "{answer} {0}" in judge.asked[0]
    assert "{reference}" in judge.asked[0]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 7, "reason": "x"}', 7),
        ('```json\n{"score": 10}\n```', 10),
        ('Sure. {"reason": "{both} sad", "score": 1} Done.', 1),
        ("7", None),
        ("Of 10 clues, 3 overlap.", None),
        ('{"score": "7"}', None),
        ('{"score": 7.5}', None),
        ('{"score": true}', None),
        ('{"score": 0}', None),
        ('{"score": 11}', None),
        ('{"rating": 7}', None),
        ('{"score": 7', None),
        ("[" * 100_000 + "{" * 100_000 + "}", None),
        ("", None),
    ],
)
def test_read_score(reply, score):
    assert read_score(reply) == score


def test_unreadable_scores_are_counted_and_left_out():
    replies = iter(['{"score": 4}', "no idea", '{"score": 8}'])

    class Moody:
        name = "moody"

        def __call__(self, prompt: str) -> str:
            return next(replies)

    scores = metrics.clue_overlap(["a", "b", "c"], ["a", "b", "c"], Moody())
    assert (scores["score"], scores["unreadable"], scores["scores"]) == (6, 1, [4, None, 8])
    nothing = metrics.clue_overlap([], [], Moody())
    assert nothing["n"] == 0
    assert math.isnan(nothing["score"])


def test_lengths_must_agree():
    for overlap in (metrics.clue_overlap, metrics.label_overlap):
        with pytest.raises(ValueError, match="1 references but 2 answers"):
            overlap(["a"], ["a", "b"], KeywordJudge())
