"""What the model is asked. One object writes the chat messages and names the labels that may answer it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

EMOTIONS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
DEFAULT_QUESTION = "Which emotion does the person show?"
DEFAULT_TRANSCRIPT = 'The person says: "{text}"\n'


@dataclass(frozen=True)
class Prompt:
    """A closed-set question about one clip.

    Attributes:
        labels: the words that may answer. Their order never reaches the model: listed labels are sorted.
        question: asked after the media and the transcript.
        transcript: how the transcript is introduced; must contain ``{text}``. Left out when a clip has none.
        list_labels: name the candidate labels in the question (a large backbone needs it, the tiny one was trained
            without).
    """

    labels: Sequence[str] = EMOTIONS
    question: str = DEFAULT_QUESTION
    transcript: str = DEFAULT_TRANSCRIPT
    list_labels: bool = False

    def __post_init__(self) -> None:
        labels = tuple(self.labels)
        problems = []
        if len(labels) < 2 or len(set(labels)) != len(labels):
            problems.append(f"labels={list(labels)} must be two or more different words")
        if any(not label.strip() or label != label.strip() for label in labels):
            problems.append(f"labels={list(labels)} must not be empty or padded with spaces")
        if "{text}" not in self.transcript:
            problems.append(f"transcript={self.transcript!r} must contain {{text}}")
        if problems:
            raise ValueError("Prompt: " + "; ".join(problems) + ".")
        object.__setattr__(self, "labels", labels)

    def user_text(self, text: str | None) -> tuple[str, tuple[int, int]]:
        """The text of the user's turn, and the span ``[start, end)`` of the transcript line in it (empty if none)."""
        spoken = self.transcript.replace("{text}", text) if text else ""
        question = self.question
        if self.list_labels:
            question += " Answer with one word: " + ", ".join(sorted(self.labels)) + "."
        return spoken + question, (0, len(spoken))

    def messages(self, *, video: bool, audio: bool, text: str | None, interleave: bool = False) -> list[dict[str, Any]]:
        """Chat messages in the format of ``processor.apply_chat_template``.

        With ``interleave`` the audio sits inside the video's span (the processor puts it there), so it gets no part.
        """
        content: list[dict[str, Any]] = []
        if video:
            content.append({"type": "video"})
        if audio and not (interleave and video):
            content.append({"type": "audio"})
        content.append({"type": "text", "text": self.user_text(text)[0]})
        return [{"role": "user", "content": content}]
