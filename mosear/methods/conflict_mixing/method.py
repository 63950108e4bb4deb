"""Conflict mixing: the face of one clip with the voice of another, taught by what each of them shows alone.

Consistent clips say nothing about which modality to believe when the two disagree, so no adapter can learn it from
them. Mixing makes the disagreement and labels it without a human: the target pools what the two sources show, by how
clearly each shows it when it is read alone and by what the transcript supports. The idea is that of MIDAS (Hwang, Choi
and Whang, 2025, arXiv:2509.25831: misaligned samples, labelled by unimodal confidence, with weights for the weak
modality and for hard samples), brought to a frozen omni-modal language model and its distribution over candidate
labels. No label says which modality is right in a recombined clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Interval
from torch import Tensor

from mosear.backbones.sequences import penalty
from mosear.methods.answer_tuning.method import answer_step, joined_regularisers, logged, mean_regularisers
from mosear.methods.base import Loss, Method
from mosear.methods.conflict_mixing.mixer import ConflictMixer
from mosear.methods.conflict_mixing.target import Scale
from mosear.methods.processes import Part, gathered
from mosear.problems import Problem
from mosear.settings import NotNegative, Positive, settings
from mosear.torchrun import launched_world

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mosear.data.sample import OmniBatch
    from mosear.methods.omni_system import OmniSystem
    from mosear.methods.step_trace import StepTrace

SCALES, TEACHER = "mixing_scales", "readings"
"""Where a checkpoint keeps what is usual for each modality, and what the teacher has read."""


@settings
@dataclass(eq=False)
class ConflictMixing(Method):
    """Answer tuning on a part of each batch, and recombined clips in place of the rest.

        loss = CE(untouched clips) + weight * mean_b m_b KL(q_b || p_b)
        q = w e_V + (1 - w) e_A
        w = sigmoid(sharpness (s_V - s_A) + agreement (a_V - a_A) + visual_prior)

    with ``p`` the model's distribution over the candidate labels, strengths ``s``, agreements ``a`` with the transcript
    (:mod:`mosear.methods.conflict_mixing.target`) and sample weights ``m`` (all 1 unless one of the last two settings
    is on).

    Attributes:
        rate: share of a batch's clips that give way to recombined ones, in (0, 1).
        weight: of the divergence in the loss.
        evidence: e, what a source says. ``label``: the label of the clip it comes from, which a consistent clip's face
            and voice share. ``reading``: what the teacher reads from it alone; needs no labels.
        sharpness: how strictly the clearer source wins; 0 averages.
        agreement: how much a transcript counts that fits one source better than the other; 0 ignores it.
        visual_prior: log-odds in favour of every face. A student reads the faces of new clips less surely than those it
            trained on, more so than voices if its backbone follows the voice; this gives back what that takes away.
            Negative favours voices.
        transcript: what a recombined clip says. ``none``; ``either``: the words of its face's or of its voice's clip;
            ``any``: those, or a third clip's, or none.
        scale: ``training`` compares strengths with what is usual for each modality on training clips: with a model that
            reads voices better, or with clips whose voices are clearer, every voice would win else. ``none`` takes them
            as they are.
        scale_clips: training clips read for that, at the start.
        teacher: who reads the single modalities. ``frozen``: the backbone without the adapter (each clip is read once,
            in its first epoch); ``adapted``: the model as it is now (three more passes over the mixed clips per step).
        weak_modality_weight: see :func:`~mosear.methods.conflict_mixing.target.sample_weights`; 0 = off.
        hard_sample_weight: see :func:`~mosear.methods.conflict_mixing.target.sample_weights`; 0 = off.
        seed: of the pairs.
    """

    rate: Annotated[float, Interval(gt=0, lt=1), "a share of the batch; without mixing, use method=answer_tuning"] = 0.5
    weight: Positive = 1.0
    evidence: Literal["label", "reading"] = "label"
    sharpness: NotNegative = 2.0
    agreement: NotNegative = 1.0
    visual_prior: float = 0.0
    transcript: Literal["none", "either", "any"] = "either"
    scale: Literal["training", "none"] = "training"
    scale_clips: Annotated[int, Ge(2)] = 300
    teacher: Literal["frozen", "adapted"] = "frozen"
    weak_modality_weight: NotNegative = 0.0
    hard_sample_weight: NotNegative = 0.0
    seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        self.mixer: ConflictMixer | None = None
        self._scales: dict[str, Scale] | None = None

    def setup(self, system: OmniSystem) -> None:
        """Learn what is usual for each modality from training clips (a resumed run takes it from its checkpoint)."""
        self.system = system
        self.mixer = ConflictMixer(self, system.backbone, system.network, system.builder, system.trie)
        if self._scales is not None:
            self.mixer.scales = self._scales
        if self.mixer.scales is None:
            self.mixer.fit_scales(system.training_batches(self.scale_clips), gathered)

    def loss(self, batch: OmniBatch, batch_idx: int) -> Loss:
        """The untouched clips' answers, and the divergence on the recombined ones."""
        assert self.mixer is not None, "setup comes before the first step"
        mixed = self.mixer.mix(batch, self.system.steps_done)
        untouched = Part.of_sampler(batch) if mixed is None else mixed.untouched
        loss, state, mean = answer_step(self.system, untouched, batch_idx)
        regularisers = mean_regularisers(state, untouched)
        logs: dict[str, Tensor] = {"loss": mean}
        if mixed is not None:
            step = self.mixer.step(mixed)
            loss = loss + self.weight * step.loss
            logs |= step.logs
            of_mixed = mean_regularisers(step.state, mixed.recombined)
            regularisers = joined_regularisers(regularisers, untouched.clips, of_mixed, mixed.recombined.clips)
        return Loss(loss + penalty(regularisers), logs | logged(regularisers))

    def state_dict(self) -> dict[str, Any]:
        """What is usual for each modality."""
        scales = self.mixer.scales if self.mixer is not None else self._scales
        return {} if scales is None else {SCALES: {name: asdict(scale) for name, scale in scales.items()}}

    def load_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Before :meth:`setup`, which then reads no clips."""
        if SCALES in checkpoint:
            self._scales = {name: Scale(**scale) for name, scale in checkpoint[SCALES].items()}

    def rank_state(self) -> dict[str, Any]:
        """What this process's teacher has read."""
        return {} if self.mixer is None else {TEACHER: self.mixer.teacher.state_dict()}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        assert self.mixer is not None, "setup comes before the first step"
        self.mixer.teacher.load_state_dict(state[TEACHER])

    @classmethod
    def rules(cls, cfg: DictConfig) -> Iterator[Problem]:
        """Mixing recombines clips of one batch, and hides a modality by masks."""
        if (size := cfg.data.get("batch_size", 2)) == 1 and launched_world() == 1:
            yield Problem(
                "data.batch_size", size, "method=conflict_mixing recombines two clips of a batch, and a batch has one",
                "Use data.batch_size of 2 or more (with trainer.accumulate_grad_batches halved), or "
                "method=answer_tuning.",
            )  # fmt: skip
        if (attention := str(cfg.backbone.get("attn_implementation", "sdpa"))) == "eager":
            yield Problem(
                "backbone.attn_implementation", attention, "conflict mixing needs boolean attention masks",
                "Use attn_implementation=sdpa, or method=answer_tuning.",
            )  # fmt: skip

    def clips_of_step(self, batch_size: int) -> Mapping[str, int]:
        """At most so many are recombined."""
        recombined = min(math.ceil(self.rate * batch_size), batch_size - 1)
        return {"clips": batch_size - recombined, "recombined": recombined}

    def memory_step(self, step: StepTrace) -> Tensor:
        """Answers of the untouched clips, then label scores of the recombined ones."""
        clips = self.clips_of_step(step.clips)
        loss = step.answers(clips["clips"])
        return loss + step.labels(clips["recombined"]) if clips["recombined"] else loss
