"""What a pass of the language model knows of its tokens: roles, where the prompt ends, what is hidden.

with sequence_state(model, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
    hidden = backbone.hidden_states(...)
loss = loss + state.penalty()
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.families import family_of
from mosear.roles import TokenRole

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily

STATES = "sequence_states"
"""Where a thinker keeps its open states."""
HOOKS = "sequence_hooks"
"""Where a thinker keeps its hooks (:mod:`mosear.backbones.sequence_hooks`)."""


# -- what is known of the sequences ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regulariser:
    """A term that a pass adds to the loss.

    Attributes:
        values: fp32 ``[B]``, one per sample, or a single number.
        weight: in the loss.
        over_batch: the number is about the whole batch and all processes, and the same on each.
    """

    values: Tensor
    weight: float
    over_batch: bool = False


class PassRecord(Protocol):
    """What a listener keeps about the prompts of a state."""

    def regularisers(self, *, counted: bool) -> Mapping[str, Regulariser]:
        """Terms of the loss, by the name under which they are logged."""


class SequenceState:
    """Describes the sequences of the passes inside one ``with`` block, and keeps what listeners recorded about them.

    Args:
        roles: ``[B, L]`` :class:`TokenRole`; ``None`` = from the input ids.
        prompt_mask: ``[B, L]``, True on tokens before the answer; ``None`` = all (MoSE refuses that in training).
        hidden: ``[B, L]`` bool, True on tokens that are invisible to all others; they count as padding here.
        transcript: ``[B, L]`` bool, True on tokens of the transcript, which roles do not tell from other text.
        quiet: an auxiliary pass, of which observers are not told.
        prompt_length: where the answer begins, for passes that read the prompt and a growing answer; instead of
            ``prompt_mask``.

    Attributes:
        records: by listener, what it kept of the last pass that read prompts.
    """

    def __init__(
        self,
        roles: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        hidden: Tensor | None = None,
        transcript: Tensor | None = None,
        quiet: bool = False,
        prompt_length: int | None = None,
    ) -> None:
        given = {"roles": roles, "prompt_mask": prompt_mask, "hidden": hidden, "transcript": transcript}
        shapes = {tuple(t.shape) for t in given.values() if t is not None}
        if len(shapes) > 1:
            raise ValueError(f"{', '.join(given)} must have one shape [B, L]; these have {sorted(shapes)}.")
        self.roles, self.prompt_mask, self.hidden, self.transcript = roles, prompt_mask, hidden, transcript
        self.quiet, self.prompt_length = quiet, prompt_length
        self.records: dict[str, PassRecord] = {}

    def described(self, derived_roles: Tensor | None, batch: int, length: int) -> tuple[Tensor, Tensor] | None:
        """Roles with hidden tokens as padding, and the prompt mask, for ``batch`` rows; ``None`` without roles.

        Raises:
            ValueError: if the pass is not about these sequences.
        """
        roles = self.roles if self.roles is not None else derived_roles
        if roles is None:
            return None
        for name in ("roles", "prompt_mask", "hidden", "transcript"):
            tensor = getattr(self, name)
            if tensor is not None and (tensor.shape[1] != length or batch % tensor.shape[0]):
                raise ValueError(
                    f"The state's {name} describe {tuple(tensor.shape)} tokens, but the pass that starts the sequences "
                    f"has {(batch, length)}. Gate and steering read the whole prompt at once: run it in one pass (no "
                    "prefill_chunk_size, no use_cache=False) and open the state with tensors of exactly that input."
                )
        roles = _rows(roles, batch)
        prompt = torch.ones_like(roles, dtype=torch.bool) if self.prompt_mask is None else self.prompt_mask.bool()
        if self.prompt_length is not None:
            prompt = prompt & (torch.arange(length, device=prompt.device) < self.prompt_length)
        if self.hidden is not None:
            roles = roles.masked_fill(_rows(self.hidden.bool(), batch), int(TokenRole.PAD))
        return roles, _rows(prompt, batch)

    def transcript_of(self, batch: int) -> Tensor | None:
        """bool ``[B, L]`` for ``batch`` rows; ``None`` if the place of the transcript is unknown."""
        return None if self.transcript is None else _rows(self.transcript.bool(), batch)

    def regularisers(self, *, counted: bool = True) -> dict[str, Regulariser]:
        """Those of all records, by name.

        Args:
            counted: False if this process only keeps the others company: its samples are in no global mean.
        """
        found: dict[str, Regulariser] = {}
        for record in self.records.values():
            found |= record.regularisers(counted=counted)
        return found

    def penalty(self) -> Tensor | float:
        """Weighted sum of the regularisers, each a mean over samples; 0 without any."""
        return penalty(self.regularisers())


def penalty(regularisers: Mapping[str, Regulariser]) -> Tensor | float:
    """Weighted sum of regularisers, each a mean over its values."""
    return sum((own.weight * own.values.mean() for own in regularisers.values() if own.weight), 0.0)


def _rows(tensor: Tensor, batch: int) -> Tensor:
    """Rows as ``generate`` expands them for beams."""
    return tensor if len(tensor) == batch else tensor.repeat_interleave(batch // len(tensor), dim=0)


@contextmanager
def sequence_state(
    model: Any,
    *,
    roles: Tensor | None = None,
    prompt_mask: Tensor | None = None,
    hidden: Tensor | None = None,
    transcript: Tensor | None = None,
    quiet: bool = False,
    prompt_length: int | None = None,
) -> Iterator[SequenceState]:
    """Open a state for the passes of a block. The innermost applies; MoSE layers and steering sessions read it.

    Args:
        model: an ``OmniBackbone``, a ``PeftModel`` or a thinker.
        roles: see :class:`SequenceState`.
        prompt_mask: see :class:`SequenceState`.
        hidden: see :class:`SequenceState`.
        transcript: see :class:`SequenceState`.
        quiet: see :class:`SequenceState`.
        prompt_length: see :class:`SequenceState`.
    """
    state = SequenceState(roles, prompt_mask, hidden, transcript, quiet, prompt_length)
    states = open_states(thinker_of(model))
    states.append(state)
    try:
        yield state
    finally:
        states.remove(state)


def open_states(thinker: Any) -> list[SequenceState]:
    """The states that are open for a thinker, innermost last: one list for the thinker's whole life."""
    if not hasattr(thinker, STATES):
        setattr(thinker, STATES, [])
    states: list[SequenceState] = getattr(thinker, STATES)
    return states


# -- which model -------------------------------------------------------------------------------------------------------


def thinker_of(model: Any) -> Any:
    """The thinker inside an ``OmniBackbone`` or a ``PeftModel``, compiled or not; a thinker passes through."""
    if isinstance(model, OmniBackbone):
        model = model.model
    model = getattr(model, "_modules", {}).get("_orig_mod", model)  # where torch.compile keeps a module
    peft = sys.modules.get("peft")  # a PeftModel can only be there if PEFT has been imported
    return model.get_base_model() if peft is not None and isinstance(model, peft.PeftModel) else model


def family_with_separate_modalities(thinker: Any, title: str, remedy: str) -> OmniFamily:
    """The family of a thinker whose audio and visual tokens are separate.

    Args:
        thinker: the model.
        title: what needs them, for messages.
        remedy: what to do with a backbone that fuses them.

    Raises:
        ValueError: for other models, and for families that fuse their modalities.
    """
    family = family_of(getattr(getattr(thinker, "config", None), "model_type", None))
    if not isinstance(thinker, family.model_class()):
        raise ValueError(
            f"{title} works on the thinker ({family.model_class().__name__}), not on {type(thinker).__name__}. Load it "
            "with mosear.backbones.load_backbone and pass its .model."
        )
    if not family.separate_modalities:
        raise ValueError(
            f"The tokens of {family.name} carry audio and picture fused: {title} cannot tell them apart. {remedy}"
        )
    if any(listener.fuses for listener in getattr(getattr(thinker, HOOKS, None), "listeners", ())):
        raise ValueError(
            f"The adapter of this model fuses audio and picture into its own tokens: {title} cannot tell them apart. "
            f"{remedy}"
        )
    return family(thinker.config)
