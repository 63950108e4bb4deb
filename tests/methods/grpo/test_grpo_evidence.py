"""The reward for naming the cues that are there, against counts by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mosear.data.clip import Clip, ModalityLabels
from mosear.data.prompt import Prompt
from mosear.data.synthetic.reasons import VOCABULARY, read_reason
from mosear.methods.grpo.evidence import EvidenceReward, thought_of
from mosear.methods.grpo.experience import columns_of

CUES = {"video": ["brows lowered", "mouth pressed"], "audio": ["voice loud", "voice fast"], "text": ["words calm"]}


def clip(cues: dict[str, list[str]] | None = CUES, label: str = "angry", **alone: str | None) -> Clip:
    own = ModalityLabels(**{"visual": "angry", "audio": "angry", "text": "neutral", **alone})
    return Clip(id="a", text="Fine.", label=label, cues=None if cues is None else json.dumps(cues), modality_labels=own)


def worth(reward: EvidenceReward, think: str, own: Clip) -> float | None:
    text = f"<think>{think}</think> <answer>sad</answer>"
    (found,) = reward([text], **columns_of([own], Prompt(), [[1]], [None]))
    return found


@pytest.mark.parametrize(
    ("think", "f1", "precision", "recall"),
    [
        ("brows lowered, mouth pressed; voice loud, voice fast; words calm", 1.0, 1.0, 1.0),
        ("Brows LOWERED! mouth pressed.\nvoice loud - voice fast: words calm", 1.0, 1.0, 1.0),
        ("brows lowered; voice loud; words calm", (2 / 3 + 2 / 3 + 1) / 3, 1.0, (0.5 + 0.5 + 1) / 3),
        ("brows lowered, brows lowered, brows lowered", 2 / 9, 1 / 3, 0.5 / 3),
        ("brows raised; voice soft; words glad", 0.0, 0.0, 0.0),
        ("brows lowered, mouth smiling; voice loud, voice fast, voice deep, voice falling", (0.5 + 2 / 3) / 3,
         (0.5 + 0.5) / 3, (0.5 + 1) / 3),
        ("the person is angry", 0.0, 0.0, 0.0),
        ("eyebrows lowered", 0.0, 0.0, 0.0),
    ],
)  # fmt: skip
def test_agreement_by_hand(think: str, f1: float, precision: float, recall: float) -> None:
    expected: dict[Any, float] = {"f1": f1, "precision": precision, "recall": recall}
    for measure, value in expected.items():
        assert worth(EvidenceReward(measure=measure), think, clip()) == pytest.approx(value), measure


def test_naming_everything_does_not_pay() -> None:
    everything = "; ".join(", ".join(phrases) for phrases in VOCABULARY.values())
    reward = EvidenceReward()
    assert worth(reward, everything, clip()) < 0.3 < worth(reward, "brows lowered; voice loud", clip())


def test_cues_of_what_is_not_there_are_worth_nothing() -> None:
    heard = clip({"audio": ["voice loud"]})
    assert worth(EvidenceReward(), "voice loud", heard) == 1.0
    assert worth(EvidenceReward(), "voice loud; brows lowered", heard) == 0.5


def test_only_the_deciding_modality_counts() -> None:
    """A face that smiles and a voice that is angry: the clip is labelled by its voice."""
    reward = EvidenceReward(deciding=True)
    voice = clip(visual="happy")
    assert worth(reward, "voice loud, voice fast", voice) == 1.0
    assert worth(reward, "brows lowered, mouth pressed", voice) == 0.0
    assert worth(reward, "brows lowered; voice loud", voice) == pytest.approx(2 / 3)
    assert worth(reward, "brows lowered, mouth pressed", clip(audio="happy")) == 1.0
    assert worth(reward, "voice loud, voice fast", clip()) == 0.5, "face and voice agree: both are asked for"
    assert worth(reward, "voice loud", clip(visual=None, audio=None, text=None)) is None, "none is known to decide"


def test_clips_without_cues_have_no_reward() -> None:
    assert worth(EvidenceReward(), "brows lowered", clip(None)) is None


def test_what_stands_in_the_answer_is_no_reasoning() -> None:
    reward = EvidenceReward()
    columns = columns_of([clip()] * 3, Prompt(), [[1]] * 3, [None] * 3)
    inside = "<answer>brows lowered</answer>"
    found = reward([inside, f"brows lowered {inside}", "<think>brows lowered"], **columns)
    assert found == pytest.approx([0.0, 2 / 9, 2 / 9]), "an unclosed thought counts to its end"
    assert thought_of("a <think>b</think> c <think>d</think>") == "b"


def test_a_reference_reason_is_worth_one() -> None:
    text = "brows lowered, lids wide; voice even; words plain"
    assert worth(EvidenceReward(), text, clip(read_reason(text))) == 1.0


@pytest.mark.parametrize(
    ("content", "expected"), [("[1]", "must hold a JSON object"), ("{", "cannot be read"), ('{"smell": ["x"]}', "must")]
)
def test_a_vocabulary_of_your_own(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"audio": ["she shouts"], "video": ["a frown"]}))
    own = clip({"audio": ["she shouts"], "video": ["a frown"]})
    assert worth(EvidenceReward(str(path)), "She shouts, with a frown", own) == 1.0
    path.write_text(content)
    with pytest.raises(ValueError, match=expected):
        EvidenceReward(str(path))
    with pytest.raises(ValueError, match="measure='f2' must be one of f1, precision, recall"):
        EvidenceReward(measure="f2")  # type: ignore[arg-type]
