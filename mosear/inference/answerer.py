"""Answers clips with one backbone: by label scores or by generated text, steered or not, with unimodal predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from mosear.backbones.labels import LabelTrie
from mosear.inference.generation import generate_text
from mosear.inference.parsing import parse_answer
from mosear.inference.prompts import Prompts
from mosear.inference.scoring import label_pass
from mosear.inference.unimodal import unimodal_predictions

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.clip import Clip
    from mosear.data.prompt import Prompt
    from mosear.data.sample import OmniBatch


NOT_FINITE = "scores are not finite"


class Steering(Protocol):
    """What answering needs of an installed steering session."""

    def unsteered(self) -> AbstractContextManager[None]:
        """The model as it is without the session, for a block."""

    def knowing(
        self, clips: Sequence[Clip], predictions: Mapping[str, Tensor] | None = None
    ) -> AbstractContextManager[None]:
        """Tell the session, for a block, what is known about the clips of its passes."""

    def note(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """Per clip that was answered last, what the session did."""


@dataclass(frozen=True)
class Answer:
    """What a model says about one clip.

    Attributes:
        label: of the vocabulary; ``None`` where the generated text could not be read or the scores are not finite.
        reason: why there is no label, else ``None``.
        text: generated text; ``None`` where labels were scored.
        distribution: float64 ``[C]`` over the labels, scored right behind the prompt; ``None`` where the scores are not
            finite, and where reasons were written first: the label that follows them has another distribution.
        unimodal: ``[C]`` for each modality (``visual``, ``audio``, ``text``) that the clip carries and that was asked.
        steering: what steering did about this clip.
    """

    label: str | None
    reason: str | None
    text: str | None
    distribution: Tensor | None
    unimodal: Mapping[str, Tensor]
    steering: Mapping[str, Any] = field(default_factory=dict)


class Answerer:
    """Answers the question of a prompt for batches of clips.

    Args:
        backbone: with or without an adapter injected.
        prompt: names the candidate labels, and how generated answers are read.
        method: ``score`` compares the labels' log-probabilities; ``generate`` decodes greedily and parses the text.
        max_new_tokens: for ``generate``.
        unimodal: also predict from each modality alone.

    Attributes:
        steering: the session that is installed, if any.
    """

    def __init__(
        self,
        backbone: OmniBackbone,
        prompt: Prompt,
        *,
        method: Literal["score", "generate"] = "score",
        max_new_tokens: int = 16,
        unimodal: bool = True,
    ) -> None:
        self.backbone, self.prompt = backbone, prompt
        self.method, self.max_new_tokens, self.unimodal = method, max_new_tokens, unimodal
        self.trie = LabelTrie.of(prompt.labels, backbone.processor.tokenizer)
        self.steering: Steering | None = None

    @torch.no_grad()
    def __call__(self, data: OmniBatch) -> list[Answer]:
        """One answer per clip of a batch of prompts."""
        prompts = Prompts.of(self.backbone, data)
        alone = self._alone(prompts) if self.unimodal else {}
        texts: Sequence[str | None] = [None] * len(data)
        with self.knowing(data.clips, alone):
            distribution = self._log_probs(prompts).softmax(-1).double().cpu()
            if self.method == "generate":
                texts = generate_text(self.backbone, data, max_new_tokens=self.max_new_tokens)
        notes = self.steering.note(data.clips) if self.steering is not None else [{} for _ in data.clips]
        alone = {name: value.double().cpu() for name, value in alone.items()}
        answers = []
        for index in range(len(data)):
            own = {name: value[index] for name, value in alone.items() if value[index].isfinite().all()}
            scores = distribution[index] if distribution[index].isfinite().all() else None
            label, reason = (None, NOT_FINITE) if scores is None else self._read(texts[index], scores)
            shown = None if self.method == "generate" and self.prompt.reasons_first else scores
            answers.append(Answer(label, reason, texts[index], shown, own, notes[index]))
        return answers

    @torch.no_grad()
    def label_log_probs(self, data: OmniBatch) -> Tensor:
        """float32 ``[B, C]``, normalised over the labels: the answers by scores alone."""
        with self.knowing(data.clips):
            return self._log_probs(Prompts.of(self.backbone, data)).log_softmax(-1)

    def knowing(self, clips: Sequence[Clip], alone: Mapping[str, Tensor] | None = None) -> AbstractContextManager[None]:
        """Tells an installed steering session what is known about the clips of its passes."""
        return nullcontext() if self.steering is None else self.steering.knowing(clips, alone)

    def _log_probs(self, prompts: Prompts) -> Tensor:
        return label_pass(self.backbone.model, self.backbone.language_model, prompts, self.trie)[0]

    def _alone(self, prompts: Prompts) -> dict[str, Tensor]:
        """What each modality says alone, never steered: late fusion, the control of steering, is made of it."""
        with self.steering.unsteered() if self.steering is not None else nullcontext():
            return unimodal_predictions(self.backbone.model, self.backbone.language_model, prompts, self.trie)

    def _read(self, text: str | None, distribution: Tensor) -> tuple[str | None, str | None]:
        if self.method == "score":
            return self.prompt.labels[int(distribution.argmax())], None
        parsed = parse_answer(
            text, self.prompt.labels, answer_format=self.prompt.answer_format, synonyms=self.prompt.synonyms
        )
        return parsed.label, parsed.reason
