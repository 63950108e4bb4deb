"""What a step learns from: groups of completions, their rewards, and the log-probabilities they were written at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mosear.data.batches import split_samples, without_answer
from mosear.data.sample import OmniBatch, Sample, collate
from mosear.inference.parsing import parse_answer
from mosear.inference.prompts import Prompts
from mosear.methods.conflict_mixing.recombining import with_recombined
from mosear.methods.conflict_mixing.teacher import eval_mode
from mosear.methods.grpo.losses import completion_mask, without_variance
from mosear.methods.grpo.modalities import STREAM_DROP, draws, dropped, thought_mask
from mosear.methods.grpo.rewards import OF_CLIPS, Rewards, Scored
from mosear.methods.grpo.rollout import RolloutRequest, seeds_of
from mosear.methods.processes import Part, anywhere

if TYPE_CHECKING:
    from mosear.data.clip import Clip
    from mosear.data.prompt import Prompt
    from mosear.methods.grpo.method import GRPO
    from mosear.methods.omni_system import OmniSystem


@dataclass(frozen=True)
class Group:
    """G completions of one clip's prompt.

    Attributes:
        clip: whose.
        ids: ``[G, T]``.
        log_probs: ``[G, T]`` as the engine told them, or ``None``.
        texts: without special tokens.
        parsed: the label that is read in each, or ``None``.
        scored: what they are worth, ``[G]`` each.
        thought: bool ``[G, T]``, tokens inside ``<think>``; ``None`` where ``masked_kl`` is 0.
    """

    clip: Clip
    ids: Tensor
    log_probs: Tensor | None
    texts: list[str]
    parsed: list[str | None]
    scored: Scored
    thought: Tensor | None = None


@dataclass
class Experience:
    """What one micro-batch is updated on, once or several times.

    Attributes:
        prompts: of this process's clips.
        ids: ``[P, G, T]``.
        mask: bool ``[P, G, T]``.
        advantage: float32 ``[P, G]``.
        old: ``[P, G, T]`` log-probabilities under the policy that wrote them; known after the first update.
        reference: ``[P, G, T]``, likewise; the reference never changes.
        thought: bool ``[P, G, T]``, tokens that are to depend on a modality; with
        hidden: bool ``[P, L]``, which is the one.
    """

    prompts: Prompts
    ids: Tensor
    mask: Tensor
    advantage: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None
    thought: Tensor | None = None
    hidden: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors on the CPU."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return mapped({**own, "prompts": dict(vars(self.prompts))}, lambda tensor: tensor.detach().cpu())

    @classmethod
    def of_state(cls, state: Mapping[str, Any], device: torch.device) -> Experience:
        """From :meth:`state_dict`."""
        own = mapped(state, lambda tensor: tensor.to(device))
        return cls(**{**own, "prompts": Prompts(**own["prompts"])})


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same containers with other tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: mapped(content, change) for name, content in value.items()}
    return [mapped(content, change) for content in value] if isinstance(value, list | tuple) else value


def columns_of(
    clips: Sequence[Clip], prompt: Prompt, ids: Sequence[Sequence[int]], parsed: Sequence[str | None]
) -> dict[str, list[Any]]:
    """What rewards are told beside the texts: :data:`mosear.methods.grpo.rewards.COLUMNS`, one entry per completion."""
    return {
        "prompts": [prompt.user_text(clip.text, clip.context)[0] for clip in clips],
        "completion_ids": [list(row) for row in ids],
        "parsed": list(parsed),
        **{name: [getattr(clip, name) for clip in clips] for name in OF_CLIPS},
        "cues": [clip.cue_phrases for clip in clips],
        "modality_labels": [
            {"video": own.visual, "audio": own.audio, "text": own.text} for own in (c.modality_labels for c in clips)
        ],
    }


class Sampler:
    """Draws groups of completions and scores them.

    Args:
        config: the settings.
        system: what is tuned.
        rewards: what completions are worth.

    Attributes:
        dropped: of how many groups drawn last the prompt lacks a modality.
    """

    def __init__(self, config: GRPO, system: OmniSystem, rewards: Rewards) -> None:
        self.config, self.system, self.rewards = config, system, rewards
        self.end_id, self.pad_id = system.builder.end_id, system.builder.pad_id
        self.dropped = 0

    def groups(self, part: Part, micro_batch: int) -> tuple[list[Group], OmniBatch]:
        """One group per clip, and the prompts; with ``dapo``, groups without variance are drawn again."""
        device = self.system.backbone.device
        positions = part.positions
        samples, self.dropped = dropped(
            [without_answer(sample) for sample in self._samples(part.batch)],
            self.config.dropped_share,
            self.draws(STREAM_DROP, micro_batch, positions),
        )
        found = self._drawn(samples, self._seeds(positions, micro_batch, 0))
        for attempt in range(1, 1 + (self.config.redraws if self.config.loss_type == "dapo" else 0)):
            again = [i for i, group in enumerate(found) if bool(without_variance(group.scored.total[None]))]
            if not anywhere(bool(again), device):
                break
            chosen = again or [0]  # keeps the other processes company
            seeds = self._seeds([positions[i] for i in chosen], micro_batch, attempt)
            drawn = self._drawn([samples[i] for i in chosen], seeds)
            found = [dict(zip(again, drawn, strict=False)).get(i, group) for i, group in enumerate(found)]
        return found, collate(samples, self.pad_id).to(device)

    def _samples(self, batch: OmniBatch) -> list[Sample]:
        """Of this process; a share of the global batch shows the face of one clip with the voice of another."""
        config = self.config
        if not config.mixed_rate:
            return split_samples(batch)
        return with_recombined(
            batch, self.system.builder, rate=config.mixed_rate, seed=config.seed, step=self.system.steps_done
        )

    def draws(self, stream: int, micro_batch: int, positions: Sequence[int]) -> list[float]:
        """A number per clip, see :func:`mosear.methods.grpo.modalities.draws`."""
        return draws(self.config.seed, self.system.steps_done, micro_batch, stream, positions)

    def _seeds(self, positions: Sequence[int], micro_batch: int, attempt: int) -> list[int]:
        return seeds_of(self.config.seed, self.system.steps_done, micro_batch, attempt, positions)

    @torch.no_grad()
    def _drawn(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Group]:
        config, backbone = self.config, self.system.backbone
        batch = collate(samples, self.pad_id).to(backbone.device)
        with eval_mode(backbone.model):
            completions = config.rollout(
                RolloutRequest(
                    batch=batch,
                    prompts=Prompts.of(backbone, batch),
                    group_size=config.group_size,
                    max_new_tokens=config.max_new_tokens,
                    temperature=config.temperature,
                    top_p=config.top_p,
                    seeds=seeds,
                    end_id=self.end_id,
                    pad_id=self.pad_id,
                )
            )
        ids, given = completions.ids, completions.log_probs
        log_probs = [None] * len(ids) if given is None else list(given)
        return [self._scored(s.clip, own, told) for s, own, told in zip(samples, ids, log_probs, strict=True)]

    def _scored(self, clip: Clip, ids: Tensor, log_probs: Tensor | None) -> Group:
        prompt, tokenizer = self.system.prompt, self.system.backbone.processor.tokenizer
        lengths = completion_mask(ids, self.end_id).sum(-1).tolist()
        rows = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
        texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
        parsed = [
            parse_answer(text, prompt.labels, answer_format=prompt.answer_format, synonyms=prompt.synonyms).label
            for text in texts
        ]
        scored = self.rewards(texts, columns_of([clip] * len(texts), prompt, rows, parsed))
        thought = thought_mask(rows, ids.shape[-1], tokenizer) if self.config.masked_kl else None
        return Group(clip, ids, log_probs, texts, parsed, scored, thought)


def joined_groups(groups: Sequence[Group], pad_id: int) -> tuple[Tensor, Tensor | None]:
    """Token ids ``[P, G, T]`` and the engine's log-probabilities of groups that may have been drawn apart."""
    length = max(group.ids.shape[-1] for group in groups)
    ids = torch.stack([pad(group.ids, (0, length - group.ids.shape[-1]), value=pad_id) for group in groups])
    told = [group.log_probs for group in groups]
    if any(row is None for row in told):
        return ids, None
    return ids, torch.stack([pad(row, (0, length - row.shape[-1])) for row in told if row is not None])


def joined_thoughts(groups: Sequence[Group], length: int) -> Tensor | None:
    """bool ``[P, G, T]``; ``None`` where ``masked_kl`` is 0."""
    found = [group.thought for group in groups]
    return (
        torch.stack([pad(own, (0, length - own.shape[-1])) for own in found if own is not None])
        if all(own is not None for own in found)
        else None
    )
