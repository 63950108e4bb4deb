"""What the model is asked. One object writes the chat messages and names the labels that may answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from mosear.settings import settings

EMOTIONS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
DEFAULT_QUESTION = "Which emotion does the person show?"
DEFAULT_TRANSCRIPT = 'The person says: "{text}"\n'
DEFAULT_TURN = 'Before that: "{text}"\n'

MOST_TURNS = 12

Strategy = Literal["minimal", "acoustic", "stepwise"]
AnswerFormat = Literal["word", "tags", "json", "rlvr", "strict_json"]

INSTRUCTIONS: dict[Strategy, str] = {
    "minimal": "",
    "acoustic": "First describe the voice: its pitch, pace, loudness and timbre. Then name the emotion.",
    "stepwise": "First describe the voice: its pitch, pace, loudness and timbre. Then describe the face and the body. "
    "Then weigh what they say against the words, step by step. Then name the emotion.",
}
"""What a strategy asks for before the label; after OmniVox (arXiv:2503.21480), the wording is ours."""

FORMATS: dict[AnswerFormat, str] = {
    "word": "Answer with one word",
    "tags": "Put what you consider between <think> and </think>, then one word between <answer> and </answer>",
    "json": 'Answer with {"final_label": "..."} and one word in it',
    "rlvr": "Write nothing but what you consider between <think> and </think> and then one word between <answer> and "
    "</answer>",
    "strict_json": 'Answer with nothing but the JSON object {"final_label": "..."} and one word in it',
}
"""How an answer is asked for; :func:`mosear.inference.parsing.parse_answer` says what is accepted."""

WRITTEN: dict[AnswerFormat, str] = {
    "word": "{label}",
    "tags": "<think>{reason}</think> <answer>{label}</answer>",
    "json": '{{"final_label": "{label}"}}',
    "rlvr": "<think>{reason}</think> <answer>{label}</answer>",
    "strict_json": '{{"final_label": "{label}"}}',
}
"""How an answer is written where one is to be learned."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@settings
@dataclass(frozen=True)
class Prompt:
    """A closed-set question about one clip.

    Attributes:
        labels: the words that may answer. Their order never reaches the model: listed labels are sorted.
        question: asked after the media and the transcript.
        transcript: how the transcript is introduced; must contain ``{text}``. Left out when a clip has none.
        list_labels: name the candidate labels in the question (a large backbone needs it, the tiny one was trained
            without).
        strategy: ``minimal`` asks for the label at once; ``acoustic`` and ``stepwise`` for a description before it, so
            they need generated answers.
        answer_format: how the answer is written and read back: ``word``, ``tags`` (``<think>`` and ``<answer>``),
            ``json`` (``final_label``), or the strict forms of the last two, ``rlvr`` and ``strict_json``, beside which
            nothing may stand.
        synonyms: other spellings of labels in generated answers, as ``{spelling: label}``.
        context_turns: how many earlier turns of the dialogue are shown, the nearest ones (0 to 12).
        turn: how each of them is introduced; must contain ``{text}``.
    """

    labels: Sequence[str] = EMOTIONS
    question: str = DEFAULT_QUESTION
    transcript: str = DEFAULT_TRANSCRIPT
    list_labels: bool = False
    strategy: Strategy = "minimal"
    answer_format: AnswerFormat = "word"
    synonyms: Mapping[str, str] = field(default_factory=dict)
    context_turns: Annotated[int, Interval(ge=0, le=MOST_TURNS)] = 0
    turn: str = DEFAULT_TURN

    def further_problems(self) -> list[str]:
        """Labels, templates and synonyms that cannot be asked about."""
        labels = list(self.labels)
        problems = []
        if len(labels) < 2 or len(set(labels)) != len(labels):
            problems.append(f"labels={labels} must be two or more different words")
        if any(not label.strip() or label != label.strip() for label in labels):
            problems.append(f"labels={labels} must not be empty or padded with spaces")
        for name in ("transcript", "turn"):
            if "{text}" not in getattr(self, name):
                problems.append(f"{name}={getattr(self, name)!r} must contain {{text}}")
        if unknown := sorted(set(self.synonyms.values()) - set(labels)):
            problems.append(f"synonyms lead to {', '.join(unknown)}, which are no labels")
        return problems

    @property
    def reasons_first(self) -> bool:
        """Does the label come after other text? Then scoring labels right behind the prompt says nothing."""
        return self.strategy != "minimal" or self.answer_format != "word"

    @property
    def writes_reasons(self) -> bool:
        """Does a written answer hold the reason for its label?"""
        return "{reason}" in WRITTEN[self.answer_format]

    def written(self, label: str, reason: str | None) -> str:
        """The answer with this label as it is to be learned; without a reason where there is none."""
        return WRITTEN[self.answer_format].format(label=label, reason=reason or "")

    def user_text(self, text: str | None, context: Sequence[str] = ()) -> tuple[str, tuple[int, int]]:
        """The text of the user's turn, and the span ``[start, end)`` of all words spoken in it (empty if none).

        Args:
            text: transcript.
            context: earlier turns, oldest first.
        """
        turns = context[-self.context_turns :] if self.context_turns else ()
        spoken = "".join(self.turn.replace("{text}", turn) for turn in turns)
        spoken += self.transcript.replace("{text}", text) if text else ""
        question = [self.question, INSTRUCTIONS[self.strategy]]
        wanted = FORMATS[self.answer_format]
        if self.list_labels:
            question.append(f"{wanted}: {', '.join(sorted(self.labels))}.")
        elif self.reasons_first:
            question.append(f"{wanted}.")
        return spoken + " ".join(part for part in question if part), (0, len(spoken))

    def messages(
        self,
        *,
        video: bool,
        audio: bool,
        text: str | None,
        context: Sequence[str] = (),
        interleave: bool = False,
    ) -> list[dict[str, Any]]:
        """Chat messages in the format of ``processor.apply_chat_template``.

        With ``interleave`` the audio sits inside the video's span (the processor puts it there), so it gets no part.
        """
        content: list[dict[str, Any]] = []
        if video:
            content.append({"type": "video"})
        if audio and not (interleave and video):
            content.append({"type": "audio"})
        content.append({"type": "text", "text": self.user_text(text, context)[0]})
        return [{"role": "user", "content": content}]
