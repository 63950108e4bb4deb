"""Rewards: what the published functions missed, TRL's signature, and what users are told about their own."""

from __future__ import annotations

import csv
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mosear.inference.parsing import parse_answer
from mosear.methods.grpo.rewards import (
    COLUMNS,
    RewardError,
    Rewards,
    WheelReward,
    accuracy_reward,
    format_reward,
    length_reward,
    reward_problems,
)

LABELS, SYNONYMS = ("angry", "happy", "sad"), {"sadness": "sad"}


def columns(completions: list[str], **given: Any) -> dict[str, list[Any]]:
    """What a reward is given beside the texts."""
    found = {
        "completion_ids": [list(range(len(text.split()) + 1)) for text in completions],
        "parsed": [parse_answer(t, LABELS, answer_format="tags", synonyms=SYNONYMS).label for t in completions],
        "id": [f"clip-{index}" for index in range(len(completions))],
        "labels": [() for _ in completions],
    }
    plain = {name: [None] * len(completions) for name in COLUMNS}
    return {**plain, **found, **given}


WELL = "<think>brows down\nvoice loud</think>\n<answer>\nSad.\n</answer>"


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        (WELL, 1.0),
        ("<think>a</think><answer>sad</answer>", 1.0),
        (f" {WELL}\n", 1.0),
        (f"Well: {WELL}", 0.0),
        (f"{WELL} and more", 0.0),
        ("<answer>sad</answer>", 0.0),
        ("sad", 0.0),
        ("", 0.0),
        ("<think>a</think><answer>sad</answer><answer>happy</answer>", 0.0),
        ("<think>a</think><think>b</think><answer>sad</answer>", 0.0),
    ],
)
def test_format(text: str, worth: float) -> None:
    assert format_reward([text], **columns([text])) == [worth]


@pytest.mark.parametrize(
    ("answer", "worth"), [("sad", 1.0), ("Sad", 1.0), ("\nsad\n", 1.0), ("SADNESS!", 1.0), ("happy", 0.0), ("", 0.0)]
)
def test_accuracy_reads_as_evaluation_does(answer: str, worth: float) -> None:
    """The published reward gives 0 for a line break, another case or a synonym, and 1 for a bare word without tags."""
    texts = [f"<think>so happy</think><answer>{answer}</answer>", "sad"]
    assert accuracy_reward(texts, **columns(texts, label=["sad", "sad"])) == [worth, 0.0]


def test_accuracy_of_a_clip_without_a_label_is_none() -> None:
    assert accuracy_reward([WELL], **columns([WELL])) == [None]


def test_length_is_dapos_penalty() -> None:
    lengths = [1, 6, 7, 8, 10, 12]
    texts = [""] * len(lengths)
    given = columns(texts, completion_ids=[[0] * n for n in lengths])
    assert length_reward(texts, limit=10, buffer=4, **given) == pytest.approx([0, 0, -0.25, -0.5, -1, -1])


def test_wheel_is_the_mean_over_wheels_that_know_the_clip(tmp_path: Path) -> None:
    def write(name: str, *rows: list[str]) -> None:
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    write("format.csv", ["name", "format"], *([word, word] for word in ("sad", "sorrow", "joy", "calm")))
    write("synonym.csv", ["word_run1", "synonym_run1"], *([word, word] for word in ("sad", "sorrow", "joy", "calm")))
    heading = ["level1", "level2", "level3"]
    write("wheel1.csv", heading, ["sadness", "sad", "sorrow"], ["happiness", "joy", "joy"])
    write("wheel2.csv", heading, ["low", "sad", "sad"], ["low", "sorrow", "sorrow"], ["peace", "calm", "calm"])
    reward = WheelReward(str(tmp_path), version="test")
    texts = ["<think>x</think><answer>sorrow, joy</answer>", "joy", "calm", "sad"]
    given = columns(texts, label=["sad", "sad", "calm", "unknown"], labels=[("sad",), (), (), ()])
    # Wheel 1 reads {sadness, happiness} (P 1/2, R 1), wheel 2 {low}; calm is on wheel 2 alone; "unknown" is on none.
    assert reward(texts, **given) == pytest.approx([(2 / 3 + 1) / 2, 0.0, 1.0, None])


# -- together ----------------------------------------------------------------------------------------------------------


def first_letter(completions: list[str], letter: str = "s", **kwargs: Any) -> list[float | None]:
    return [None if not text else float(text[0] == letter) for text in completions]


def test_weighted_sum_of_what_applies() -> None:
    rewards = Rewards({"letter": first_letter, "format": format_reward, "off": None}, {"letter": 0.5, "format": 2.0})
    texts = ["sad", "", WELL]
    scored = rewards(texts, columns(texts))
    assert scored.total.tolist() == [0.5, 0.0, 2.0]
    assert scored.by_name["letter"].isnan().tolist() == [False, True, False] and "off" not in scored.by_name
    nothing = Rewards({"letter": first_letter}, {})(texts, columns(texts)).total.tolist()
    assert nothing[0] == 1.0 and math.isnan(nothing[1]), "no reward applies"


def fails_on_happy(completions: list[str], **kwargs: Any) -> list[float]:
    return [{"sad": 1.0}[text] for text in completions]


def test_a_failing_reward_names_the_completion() -> None:
    texts = ["sad", "happy", "sad"]
    with pytest.raises(
        RewardError, match=r"method\.rewards\.mine.*\n.*KeyError: 'happy' - on completion 1 .*clip-1"
    ) as told:
        Rewards({"mine": fails_on_happy}, {})(texts, columns(texts))
    assert isinstance(told.value.__cause__, KeyError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", [1.0]])
def test_a_reward_gives_numbers_or_none(value: Any) -> None:
    with pytest.raises(RewardError, match=r"completion 1 \(of clip 'clip-1'\): 'b'"):
        Rewards({"mine": lambda completions, **_: [1, value]}, {})(["a", "b"], columns(["a", "b"]))


def test_a_reward_gives_one_number_per_completion() -> None:
    with pytest.raises(RewardError, match="1 rewards for 2 completions"):
        Rewards({"mine": lambda completions, **_: [1.0]}, {})(["a", "b"], columns(["a", "b"]))


def no_columns(completions: list[str]) -> list[float]:
    return [0.0 for _ in completions]


def needs_more(completions: list[str], threshold: float, **kwargs: Any) -> list[float]:
    return [threshold for _ in completions]


def test_what_cannot_be_called_is_found_before_a_step() -> None:
    good = {"a": format_reward, "b": partial(needs_more, threshold=1.0), "c": first_letter, "off": None}
    assert list(reward_problems(good, {"a": 2.0})) == []
    (problem,) = reward_problems({"mine": no_columns}, {})
    assert "rewards.mine=no_columns" in problem and "take **columns" in problem
    (problem,) = reward_problems({"mine": needs_more}, {})
    assert "threshold" in problem
    (problem,) = reward_problems({"mine": "os.system"}, {})
    assert "_target_" in problem
    assert list(reward_problems({"off": None}, {})) == ["rewards={} must name at least one reward"]
    assert list(reward_problems({"a": format_reward}, {"b": 1.0})) == ["weights name b, but the rewards are a"]
    assert not list(reward_problems({"a": format_reward, "b": None}, {"b": 1.0})), "left out, with its weight"
