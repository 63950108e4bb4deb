"""Group-relative policy optimisation: several completions of each prompt, rewarded, and compared with one another.

R1-Omni's recipe (Zhao et al. 2025, arXiv:2503.05379) with what its published code lacks; docs/grpo.md lists the
differences. Formulas: :mod:`mosear.methods.grpo.losses`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from mosear.backbones.sequences import SequenceState, penalty
from mosear.inference.prompts import Prompts
from mosear.inference.scoring import label_pass
from mosear.methods.answer_tuning.method import logged, mean_regularisers
from mosear.methods.base import Loss, Method
from mosear.methods.conflict_mixing.teacher import eval_mode
from mosear.methods.grpo.completions import CompletionScores, completion_pass
from mosear.methods.grpo.experience import Experience, Group, Sampler, columns_of, joined_groups, joined_thoughts
from mosear.methods.grpo.losses import (
    LossType,
    Objective,
    advantages,
    completion_mask,
    expected_reward,
    label_divergence,
    policy_loss,
    without_variance,
)
from mosear.methods.grpo.modalities import STREAM_HIDE, dependence, hidden_media
from mosear.methods.grpo.reference import StartingPoint
from mosear.methods.grpo.rewards import Rewards, Scored, reward_problems
from mosear.methods.grpo.rollout import CachedRollout, Rollout
from mosear.methods.grpo.rules import grpo_rules
from mosear.methods.grpo.shown import Shown
from mosear.methods.grpo.watch import Watch, repeats_a_tag, summed
from mosear.methods.processes import Part, anywhere, mean_loss, mean_of_clips
from mosear.problems import Problem
from mosear.settings import NotNegative, Positive, settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mosear.data.sample import OmniBatch
    from mosear.evaluation.report import LineChart, Table
    from mosear.methods.omni_system import OmniSystem
    from mosear.methods.step_trace import StepTrace

WATCH, KEPT, START, SHOWN = "grpo_watch", "grpo_kept", "grpo_start", "grpo_shown"
"""Where a checkpoint keeps the curves, what is still to be learned from, the reference if it is the start, and a few
completions."""


@settings
@dataclass(eq=False)
class GRPO(Method):
    """Reinforcement learning with verifiable rewards.

    Attributes:
        estimator: ``sampled`` draws completions. ``exact`` takes the gradient of the expected reward itself, by the
            probabilities of the candidate labels: for answers of one label, without variance, in one pass.
        loss_type: of ``sampled``; see :mod:`mosear.methods.grpo.losses`.
        group_size: G, completions per prompt.
        max_new_tokens: T, longest completion.
        temperature: of sampling, and of the log-probabilities in the loss.
        top_p: tokens are drawn from the smallest set with at least this probability.
        beta: weight of the KL divergence from the reference; 0 runs no reference pass.
        reference: ``backbone``, the model without its adapter; or ``start``, the adapter as it was when training began,
            which ``init_from`` gives.
        clip_low: see :class:`~mosear.methods.grpo.losses.Objective`.
        clip_high: see :class:`~mosear.methods.grpo.losses.Objective`.
        epsilon: added to a group's standard deviation.
        num_iterations: optimiser steps on the same completions. Batches that arrive meanwhile are not looked at.
        redraws: with ``dapo``, how often groups without variance are drawn again at most.
        dropped_share: share of the groups whose prompt lacks the picture or the sound, where a clip has both.
        mixed_rate: share of the batch that is recombined as in conflict mixing: the face of one clip with the voice of
            another, without a label. Rewards that need none apply, such as for naming the cues of both.
        masked_kl: weight of how much the reasoning depends on picture or sound, which is raised; see
            :mod:`mosear.methods.grpo.modalities`.
        masked_kl_limit: nats per token beyond which there is nothing to gain.
        rewards: by name, functions ``(completions, **columns)``; ``None`` = left out.
        weights: of the rewards by name; 1 where none is given.
        rollout: what samples.
        seed: of the samples.
    """

    estimator: Literal["sampled", "exact"] = "sampled"
    loss_type: LossType = "grpo"
    group_size: Annotated[int, Ge(2)] = 8
    max_new_tokens: Annotated[int, Ge(1)] = 16
    temperature: Positive = 1.0
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    beta: NotNegative = 0.04
    reference: Literal["backbone", "start"] = "backbone"
    clip_low: Annotated[float, Interval(gt=0, le=1)] = 0.2
    clip_high: Positive = 0.2
    epsilon: Annotated[float, Gt(0)] = 1e-4
    num_iterations: Annotated[int, Ge(1)] = 1
    redraws: Annotated[int, Ge(0)] = 3
    dropped_share: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    mixed_rate: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    masked_kl: NotNegative = 0.0
    masked_kl_limit: Positive = 1.0
    rewards: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    rollout: Rollout = field(default_factory=CachedRollout)
    seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        self.watch, self.shown = Watch(), Shown()
        self._step, self._micro_batch = -1, 0
        self._kept: list[Experience] = []
        self._start: StartingPoint | None = None

    def further_problems(self) -> Iterator[str]:
        """Rewards and rollouts that cannot be called."""
        yield from reward_problems(self.rewards, self.weights)
        if not callable(self.rollout) or not callable(getattr(self.rollout, "setup", None)):
            yield f"rollout={self.rollout!r} must have the methods setup(system) and __call__(request)"

    def setup(self, system: OmniSystem) -> None:
        """Let the engine that samples prepare itself."""
        self.system = system
        self.rollout.setup(system)
        self._rewards = Rewards(self.rewards, self.weights)
        self._sampler = Sampler(self, system, self._rewards)
        if self.beta and self.reference == "start" and self._start is None:  # a resumed run has it from its checkpoint
            self._start = StartingPoint.of(system)

    # -- a step --------------------------------------------------------------------------------------------------------

    def loss(self, batch: OmniBatch, batch_idx: int) -> Loss:
        """Draw, score and compare completions; or learn once more from those that were drawn."""
        part = Part.of_sampler(batch)
        if self.estimator == "exact":
            return self._exact(part)
        step = self.system.steps_done
        if step != self._step:
            self._step, self._micro_batch = step, 0
            if step % self.num_iterations == 0:
                self._kept = []
        index, self._micro_batch = self._micro_batch, self._micro_batch + 1
        sums: dict[str, Tensor | float] = {}
        told: Tensor | None = None
        if index >= len(self._kept):
            experience, sums, told = self._drawn(part, index)
            self._kept.append(experience)
        return self._update(self._kept[index], part, sums, told)

    def _drawn(self, part: Part, index: int) -> tuple[Experience, dict[str, Tensor | float], Tensor | None]:
        groups, prompts = self._sampler.groups(part, index)
        self._show(groups)
        ids, told = joined_groups(groups, self._sampler.pad_id)
        mask = completion_mask(ids, self._sampler.end_id)
        rewards = torch.stack([group.scored.total for group in groups]).to(ids.device)
        advantage = advantages(rewards, scale=self.loss_type != "dr_grpo", epsilon=self.epsilon)
        experience = Experience(Prompts.of(self.system.backbone, prompts), ids, mask, advantage)
        if (thought := joined_thoughts(groups, ids.shape[-1])) is not None:
            numbers = self._sampler.draws(STREAM_HIDE, index, part.positions)
            experience.hidden = hidden_media(experience.prompts, numbers)
            experience.thought = thought.to(ids.device) & mask & experience.hidden.any(1)[:, None, None]
        return experience, self._sums_of(groups, mask, rewards), told

    def _show(self, groups: Sequence[Group]) -> None:
        """Keep a few completions, and give them to loggers that show tables (Lightning's ``log_table``)."""
        new = self.shown.add(self.system.steps_done, groups[0])
        for table in self.shown.tables(new):
            for logger in self.system.own_loggers:
                if hasattr(logger, "log_table"):
                    logger.log_table(table.name, list(table.columns), [list(row) for row in table.rows])

    def _update(self, own: Experience, part: Part, sums: Mapping[str, Tensor | float], told: Tensor | None) -> Loss:
        if own.reference is None and self.beta:
            own.reference = self._reference(own)  # before there is a graph: weights may be swapped
        without = None if own.hidden is None else self._without(own)
        scores = self._scores(own)
        if own.old is None:
            own.old = scores.log_probs.detach()
        objective = Objective(self.loss_type, self.beta, self.clip_low, self.clip_high, self.max_new_tokens)
        found = policy_loss(scores.log_probs, own.old, own.reference, own.advantage, own.mask, objective)
        loss, mean = mean_loss(found.summed, found.count, counted=part.counted)
        depends: dict[str, Tensor | float] = {}
        if without is not None and own.thought is not None:
            gained, count = dependence(scores.log_probs, without, own.thought, self.masked_kl_limit)
            depends = {"masked_kl": gained.detach(), "thoughts": count}
            if anywhere(bool(count), count.device):  # else there is no mean
                value, mean_gain = mean_loss(gained, count, counted=part.counted)
                loss, mean = loss - self.masked_kl * value, mean - self.masked_kl * mean_gain
        tokens = float(own.mask.sum())
        gap: Tensor | float = 0.0 if told is None else ((told - own.old).abs() * own.mask).sum()
        policy: dict[str, Tensor | float] = {
            "tokens": tokens, "kl": found.divergence, "entropy": scores.entropy, "clipped": found.clipped,
            "ratios": found.ratios, "gap": gap, "told": 0.0 if told is None else tokens,
        }  # fmt: skip
        return self._noted(loss, mean, scores.state, part, {**sums, **policy, **depends})

    def _scores(self, own: Experience, *, hidden: Tensor | None = None, quiet: bool = False) -> CompletionScores:
        backbone = self.system.backbone
        return completion_pass(
            backbone.model, backbone.language_model, own.prompts, own.ids, own.mask,
            temperature=self.temperature, hidden=hidden, quiet=quiet,
        )  # fmt: skip

    @torch.no_grad()
    def _without(self, own: Experience) -> Tensor:
        """Log-probabilities of the policy as it is now, with a modality hidden."""
        with eval_mode(self.system.backbone.model):
            return self._scores(own, hidden=own.hidden, quiet=True).log_probs

    @torch.no_grad()
    def _reference(self, own: Experience) -> Tensor:
        with self._as_reference():
            return self._scores(own, quiet=True).log_probs

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        policy = self.system.untuned() if self._start is None else self._start.restored(self.system)
        with eval_mode(self.system.backbone.model), policy:
            yield

    def _noted(
        self, loss: Tensor, mean: Tensor, state: SequenceState, part: Part, sums: Mapping[str, Tensor | float]
    ) -> Loss:
        everywhere = summed(sums, loss.device)
        self.watch.add(self.system.steps_done, everywhere)
        regularisers = mean_regularisers(state, part)
        figures = {name: loss.new_tensor(value) for name, value in self.watch.figures(everywhere).items()}
        return Loss(loss + penalty(regularisers), {"loss": mean, **figures, **logged(regularisers)})

    def _sums_of(self, groups: Sequence[Group], mask: Tensor, rewards: Tensor) -> dict[str, Tensor | float]:
        texts = [text for group in groups for text in group.texts]
        parsed = [label for group in groups for label in group.parsed]
        gold = [group.clip.label for group in groups for _ in group.texts]
        return {
            "completions": float(len(texts)), "groups": float(len(groups)),
            "no_variance": without_variance(rewards).sum(),
            "length": mask.sum(),
            "truncated": sum((group.ids != self._sampler.end_id).all(-1).sum() for group in groups),
            "parsed": float(sum(label is not None for label in parsed)),
            "labelled": float(sum(label is not None for label in gold)),
            "right": float(sum(a is not None and a == b for a, b in zip(parsed, gold, strict=True))),
            "repeated": float(sum(map(repeats_a_tag, texts))),
            **{f"said/{label}": float(parsed.count(label)) for label in self.system.labels},
            **{f"gold/{label}": float(gold.count(label)) for label in self.system.labels},
            **reward_sums([group.scored for group in groups]),
            **({"dropped": float(self._sampler.dropped)} if self.dropped_share else {}),
        }  # fmt: skip

    # -- closed labels -------------------------------------------------------------------------------------------------

    def _exact(self, part: Part) -> Loss:
        batch, labels = part.batch, list(self.system.labels)
        prompts = Prompts.of(self.system.backbone, batch).without_answers()
        reference: Tensor | None = None
        if self.beta:
            with torch.no_grad(), self._as_reference():
                reference = self._labels(prompts, quiet=True)[0].log_softmax(-1)
        scores, state = self._labels(prompts)
        log_p = scores.log_softmax(-1)
        scored = self._label_rewards(batch)
        rewards = scored.total.nan_to_num(0.0).view(len(batch), -1).to(log_p)
        expected = expected_reward(log_p, rewards)
        distance = torch.zeros_like(expected) if reference is None else label_divergence(log_p, reference)
        losses = self.beta * distance - expected
        mean = mean_loss(losses.sum(), float(len(losses)), counted=part.counted)[1]
        p, clips = log_p.detach().exp(), float(len(batch))
        gold = [clip.label for clip in batch.clips]
        right = sum(p[i, labels.index(label)] for i, label in enumerate(gold) if label in labels)
        sums: dict[str, Tensor | float] = {
            "completions": clips, "parsed": clips, "labelled": float(sum(label is not None for label in gold)),
            "right": right, "groups": clips, "no_variance": without_variance(rewards).sum(),
            "tokens": clips, "kl": distance.detach().sum(), "entropy": -(p * log_p.detach()).sum(),
            "reward": expected.detach().sum(), "rewarded": clips,
            **{f"said/{label}": p[:, index].sum() for index, label in enumerate(labels)},
            **{f"gold/{label}": float(gold.count(label)) for label in labels},
        }  # fmt: skip
        for name, values in scored.by_name.items():
            of_labels = values.view(len(batch), -1).to(p)
            sums[f"reward/{name}"] = (p * of_labels.nan_to_num(0.0)).sum()
            sums[f"n/reward/{name}"] = (p * ~of_labels.isnan()).sum()
        return self._noted(mean_of_clips(losses, counted=part.counted), mean, state, part, sums)

    def _labels(self, prompts: Prompts, *, quiet: bool = False) -> tuple[Tensor, SequenceState]:
        backbone = self.system.backbone
        return label_pass(backbone.model, backbone.language_model, prompts, self.system.trie, quiet=quiet)

    def _label_rewards(self, batch: OmniBatch) -> Scored:
        """What every label of every clip would be worth as its completion, ``[B C]``."""
        trie, labels = self.system.trie, list(self.system.labels)
        clips = [clip for clip in batch.clips for _ in labels]
        ids = [[token for _, token in path] for path in trie.paths] * len(batch)
        texts = labels * len(batch)
        return self._rewards(texts, columns_of(clips, self.system.prompt, ids, texts))

    # -- what a run keeps and asks -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The curves, which are those of all processes, and the weights that training began with."""
        start = {} if self._start is None else {START: {n: own.cpu() for n, own in self._start.weights.items()}}
        return {WATCH: self.watch.state_dict(), SHOWN: self.shown.state_dict(), **start}

    def load_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on with the curves and the same reference."""
        if WATCH in checkpoint:
            self.watch = Watch(checkpoint[WATCH])
        if SHOWN in checkpoint:
            self.shown = Shown(checkpoint[SHOWN])
        if START in checkpoint:
            self._start = StartingPoint(checkpoint[START])

    def rank_state(self) -> dict[str, Any]:
        """Completions that the next steps still learn from."""
        unfinished = self.system.steps_done % self.num_iterations != 0
        return {KEPT: [own.state_dict() for own in self._kept] if unfinished else []}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self._kept = [Experience.of_state(own, self.system.backbone.device) for own in state[KEPT]]

    @classmethod
    def rules(cls, cfg: DictConfig) -> Iterator[Problem]:
        """See :mod:`mosear.methods.grpo.rules`."""
        yield from grpo_rules(cfg)

    @classmethod
    def writes_answers(cls, cfg: DictConfig) -> bool:
        """Unless labels are scored."""
        return bool(cfg.method.get("estimator") != "exact")

    def clips_of_step(self, batch_size: int) -> Mapping[str, int]:
        """Each clip's prompt is read once, with all its completions behind it."""
        return {"clips": batch_size}

    def weight_copies(self) -> int:
        """The start, and the present weights while those of the start stand in their place."""
        return 2 if self.beta and self.reference == "start" else 0

    def memory_step(self, step: StepTrace) -> Tensor:
        """The rollout's KV cache, which is gone before the pass over prompts and completions."""
        if self.estimator == "exact":
            return step.labels(step.clips)
        config: Any = step.language_model.config
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rows, length = step.clips * self.group_size, step.tokens + self.max_new_tokens
        dtype = step.thinker.get_input_embeddings().weight.dtype
        cache = torch.empty(2, config.num_hidden_layers, rows, heads, length, width, dtype=dtype)
        del cache
        tree = replace(step, nodes=self.group_size * (self.max_new_tokens - 1))
        loss = tree.labels(step.clips)
        step.logits += tree.logits
        return loss

    def summary(self) -> Mapping[str, Any]:
        """Means of the first and last steps, and warnings."""
        return {"grpo": self.watch.summary()}

    def charts(self) -> Sequence[LineChart]:
        """Rewards, length, shares, KL and entropy by step."""
        return self.watch.charts()

    def tables(self) -> Sequence[Table]:
        """A few completions of steps all over the run."""
        return self.shown.tables()


def reward_sums(scored: Sequence[Scored]) -> dict[str, Tensor | float]:
    """Sums and counts of the total and of each reward, over completions to which it applies."""
    columns = {"reward": [own.total for own in scored]}
    columns |= {f"reward/{name}": [own.by_name[name] for own in scored] for name in scored[0].by_name}
    found: dict[str, Tensor | float] = {}
    for name, rows in columns.items():
        values = torch.cat(rows)
        found[name] = values.nansum()
        found["rewarded" if name == "reward" else f"n/{name}"] = (~values.isnan()).sum()
    return found
