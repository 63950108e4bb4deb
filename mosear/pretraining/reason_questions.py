"""What the base that writes reasons is asked: which emotion, what face, voice and words do, and texts to copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mosear.backbones.media import MediaBatch
from mosear.data.batches import without_answer
from mosear.data.clip import Clip, reason_text
from mosear.data.sample import IGNORE, Sample
from mosear.data.synthetic.reasons import VOCABULARY, Cues, word_cues
from mosear.pretraining.pretrain import Assembler, Item
from mosear.pretraining.tags import QUESTIONS

if TYPE_CHECKING:
    from mosear.pretraining.reasons import ReasonRecipe

CUE_QUESTION = "What do face, voice and words do?"
TAGS = tuple(QUESTIONS)


def reason_words() -> list[str]:
    """The words of the reasons, as they stand at the start of a reason and behind a space."""
    words = [phrase.split() for phrases in VOCABULARY.values() for phrase in phrases]
    return list(
        dict.fromkeys(word for first, *rest in words for word in (first, f" {first}", *(f" {r}" for r in rest)))
    )


class Reasons:
    """The reason of an item, from what its face and voice do."""

    def __init__(self, faces: Sequence[list[str]], voices: Sequence[list[str]]) -> None:
        self.faces, self.voices = faces, voices

    def cues(self, item: Item) -> Cues:
        """Phrases by modality; a hidden modality has none, as an absent one."""
        seen = item.face is not None and "visual" not in item.hide
        heard = item.voice is not None and "audio" not in item.hide
        return {
            "video": self.faces[item.face] if seen and item.face is not None else [],
            "audio": self.voices[item.voice] if heard and item.voice is not None else [],
            "text": word_cues(item.text) if item.text else [],
        }

    def asked(self, item: Item) -> Item:
        """The same clip with its reason as the answer."""
        return replace(item, answer=reason_text(self.cues(item)))


class ReasonAssembler(Assembler):
    """Prompts are memoised without their answers, of which there are too many; answers are set behind them."""

    def sample(self, item: Item) -> Sample:
        bare = super().sample(replace(item, answer=""))
        return answered(without_answer(bare), self.builder.answer_ids(item.answer))


def answered(prompt: Sample, ids: list[int]) -> Sample:
    """A prompt with these tokens behind it."""
    answer, count = torch.tensor(ids), len(ids)
    last = prompt.position_ids.amax()
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, answer]),
        position_ids=torch.cat([prompt.position_ids, (last + 1 + torch.arange(count)).expand(3, -1)], dim=1),
        roles=torch.cat([prompt.roles, prompt.roles[-1:].expand(count)]),
        transcript=F.pad(prompt.transcript, (0, count)),
        labels=torch.cat([prompt.labels, answer]),
    )


def asked_twice(first: Sample, second: Sample) -> tuple[Sample, Tensor]:
    """Two questions about a clip with their answers in one sequence, and which question ``[L]`` a token belongs to.

    What both begin with (the media and the transcript) stands there once and belongs to question 0. The second follows
    at the positions that it has alone; its tokens must not look at those of the first.
    """
    shortest = min(len(first.input_ids), len(second.input_ids))
    differs = first.input_ids[:shortest] != second.input_ids[:shortest]
    shared = int(differs.nonzero()[0, 0])

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(first, name), getattr(second, name)[..., shared:]], dim=-1)

    names = ("input_ids", "position_ids", "roles", "transcript", "labels")
    changes: dict[str, Any] = {name: joined(name) for name in names}
    sample = replace(first, **changes)
    question = torch.zeros(len(sample.input_ids), dtype=torch.long)
    question[shared : len(first.input_ids)], question[len(first.input_ids) :] = 1, 2
    return sample, question


class Copies:
    """Texts with tags to write down again, so that tags are words that the base can read and write."""

    def __init__(self, recipe: ReasonRecipe, assembler: Assembler) -> None:
        self.recipe, self.builder = recipe, assembler.builder

    def texts(self, step: int) -> list[str]:
        """Tags in any order among words; never a form that tuning asks for."""
        rng = np.random.default_rng([self.recipe.seed, step, 2])
        words = [word.strip() for word in reason_words()]
        drawn = []
        for _ in range(self.recipe.copies):
            parts = [str(word) for word in rng.choice(words, size=2)] + [str(tag) for tag in rng.choice(TAGS, size=2)]
            drawn.append(" ".join(parts[i] for i in rng.permutation(len(parts))))
        return drawn

    def samples(self, step: int) -> list[Sample]:
        """The texts as questions with answers."""
        return [self.sample(text) for text in self.texts(step)]

    def sample(self, text: str) -> Sample:
        """One text to copy, and its copy."""
        return self.asked(f"Write: {text}", text)

    def asked(self, question: str, answer: str) -> Sample:
        """A question without media, and its answer."""
        tokenizer, family = self.builder.processor.tokenizer, self.builder.family
        chat = self.builder.processor.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor(tokenizer(chat, add_special_tokens=False)["input_ids"])
        blank = torch.zeros(len(ids), dtype=torch.bool)
        prompt = Sample(
            clip=Clip(id="copy", text=answer),
            input_ids=ids,
            position_ids=family.position_ids(ids, [], [], audio_in_video=False),
            roles=torch.zeros(len(ids), dtype=torch.long),
            transcript=blank,
            labels=torch.full((len(ids),), IGNORE),
            prompt_length=len(ids),
            media=MediaBatch([], []),
        )
        return answered(prompt, self.builder.answer_ids(answer))
