"""Cross-entropy of the answer tokens: the label of each clip, given its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mosear.backbones.masks import causal_mask
from mosear.backbones.sequences import Regulariser, SequenceState, penalty, sequence_state
from mosear.data.prompt import Prompt
from mosear.inference.prompts import Prompts
from mosear.methods.answer_tuning.loss import AnswerRows
from mosear.methods.answer_tuning.modality_dropout import dropped_modality, modality_draws
from mosear.methods.base import Loss, Method
from mosear.methods.processes import Part, mean_loss, mean_of_clips
from mosear.problems import Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mosear.data.sample import OmniBatch
    from mosear.methods.omni_system import OmniSystem
    from mosear.methods.step_trace import StepTrace


class AnswerTuning(Method):
    """Mean cross-entropy of the answer tokens, and the regularisers of a gate if there is one.

    With ``data.prompt.answer_format=rlvr`` or ``tags`` an answer is the reason of the manifest, then the label.
    """

    learns_written = True

    def setup(self, system: OmniSystem) -> None:
        """Nothing to prepare."""
        self.system = system

    def loss(self, batch: OmniBatch, batch_idx: int) -> Loss:
        """One pass over the clips."""
        part = Part.of_sampler(batch)
        loss, state, mean = answer_step(self.system, part, batch_idx)
        found = mean_regularisers(state, part)
        return Loss(loss + penalty(found), {"loss": mean, **logged(found)})

    @classmethod
    def rules(cls, cfg: DictConfig) -> Iterator[Problem]:
        """A strategy asks for text that only an answer with a reason has."""
        prompt = cfg.data.get("prompt") or {}
        strategy, written = prompt.get("strategy", "minimal"), prompt.get("answer_format", "word")
        if strategy != "minimal" and not Prompt(answer_format=written).writes_reasons:
            yield Problem(
                "data.prompt.strategy", strategy,
                f"it asks for a description, which an answer of the form {written} has no place for",
                "Use data.prompt.answer_format=rlvr or tags, with reasons in the manifest; or strategy=minimal.",
            )  # fmt: skip

    def clips_of_step(self, batch_size: int) -> Mapping[str, int]:
        """One kind of pass."""
        return {"clips": batch_size}

    def memory_step(self, step: StepTrace) -> Tensor:
        """One pass over all clips."""
        return step.answers(step.clips)


def answer_step(system: OmniSystem, part: Part, batch_idx: int = 0) -> tuple[Tensor, SequenceState, Tensor]:
    """Mean cross-entropy of the answer tokens of the global batch, the state of the pass, and the mean to log."""
    data, backbone = part.batch, system.backbone
    hidden = dropped_modality(backbone, data, modality_draws(part, system.seed, (system.steps_done, batch_idx)))
    mask = data.attention_mask if hidden is None else causal_mask(data.attention_mask, hidden)
    rows = AnswerRows.of(data.labels)
    prompts = Prompts.of(backbone, data)
    summed, state = answer_pass(backbone.model, backbone.language_model, prompts, rows, mask, hidden)
    loss, mean = mean_loss(summed, rows.count, counted=part.counted)
    return loss, state, mean


def answer_pass(
    thinker: Any,
    language_model: nn.Module,
    prompts: Prompts,
    rows: AnswerRows,
    mask: Tensor | None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, SequenceState]:
    """Summed cross-entropy of answer tokens, and the state of the pass.

    Args:
        thinker: with its adapter.
        language_model: its decoder.
        prompts: with their answers behind them.
        rows: where these are.
        mask: as the decoder takes it.
        hidden: ``[B, L]`` bool, tokens that are invisible.
    """
    if getattr(language_model, "gradient_checkpointing", False):
        prompts.embeds.requires_grad_(True)  # a checkpointed segment whose inputs need no gradient would give none
    with sequence_state(
        thinker, roles=prompts.roles, prompt_mask=prompts.prompt, hidden=hidden, transcript=prompts.transcript
    ) as state:
        states = language_model(
            inputs_embeds=prompts.embeds,
            attention_mask=mask,
            position_ids=prompts.positions,
            use_cache=False,
            **prompts.extra,
        ).last_hidden_state
    return rows.loss(states, thinker.get_output_embeddings()), state


def mean_regularisers(state: SequenceState, part: Part) -> dict[str, Regulariser]:
    """Regularisers of a pass, each a mean over the clips of the global batch."""
    found = state.regularisers(counted=part.counted)
    return {
        name: Regulariser(
            own.values.mean() if own.over_batch else mean_of_clips(own.values, counted=part.counted), own.weight
        )
        for name, own in found.items()
    }


def joined_regularisers(
    first: Mapping[str, Regulariser], n: int, second: Mapping[str, Regulariser], m: int
) -> dict[str, Regulariser]:
    """Those of ``n + m`` samples that ran in two passes."""
    return {
        name: Regulariser((n * own.values + m * second[name].values) / (n + m), own.weight)
        for name, own in first.items()
    }


def logged(regularisers: Mapping[str, Regulariser]) -> dict[str, Tensor]:
    """What a log says about regularisers."""
    return {name: own.values.detach() for name, own in regularisers.items()}
