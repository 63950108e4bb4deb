"""What a forward pass cannot know from its arguments: roles, where the prompt ends, what is hidden.

with sequence_state(model, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
    hidden = backbone.hidden_states(...)
loss = loss + state.penalty()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mosear.experts.passes import GROUPS, ForwardPass
from mosear.roles import TokenRole

if TYPE_CHECKING:
    from mosear.experts.conductor import Conductor
    from mosear.experts.config import MoSEConfig

ATTRIBUTE = "mose_conductor"
"""Where a thinker with MoSE layers keeps its conductor."""

STATES = "sequence_states"
"""Where a thinker keeps its open states, whoever reads them (experts, steering)."""


class SequenceState:
    """Describes the sequences of the passes inside one ``with`` block, and keeps what the gate said about them.

    Args:
        roles: ``[B, L]`` :class:`TokenRole`; ``None`` = from the input ids.
        prompt_mask: ``[B, L]``, True on tokens before the answer; ``None`` = everything (refused in training).
        hidden: ``[B, L]`` bool, True on tokens that nobody may see; they count as padding here.
        transcript: ``[B, L]`` bool, True on tokens of the transcript, which roles do not tell from other text.
        quiet: a pass on somebody's behalf, which listeners to the gate are not told of.
    """

    def __init__(
        self,
        roles: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        hidden: Tensor | None = None,
        transcript: Tensor | None = None,
        quiet: bool = False,
    ) -> None:
        given = {"roles": roles, "prompt_mask": prompt_mask, "hidden": hidden, "transcript": transcript}
        shapes = {tuple(t.shape) for t in given.values() if t is not None}
        if len(shapes) > 1:
            raise ValueError(f"{', '.join(given)} must have one shape [B, L]; these have {sorted(shapes)}.")
        self.roles, self.prompt_mask, self.hidden, self.transcript = roles, prompt_mask, hidden, transcript
        self.quiet = quiet
        self.config: MoSEConfig | None = None
        self.last: ForwardPass | None = None

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
                    "prefill_chunk_size) and open the state with tensors of exactly that input."
                )
        roles = _rows(roles, batch)
        prompt = torch.ones_like(roles, dtype=torch.bool) if self.prompt_mask is None else self.prompt_mask.bool()
        if self.hidden is not None:
            roles = roles.masked_fill(_rows(self.hidden.bool(), batch), int(TokenRole.PAD))
        return roles, _rows(prompt, batch)

    def transcript_of(self, batch: int) -> Tensor | None:
        """bool ``[B, L]`` for ``batch`` rows; ``None`` if nobody said where the transcript is."""
        return None if self.transcript is None else _rows(self.transcript.bool(), batch)

    # -- what the gate said -----------------------------------------------------------------------------------------

    def gate_weights(self) -> Tensor:
        """``[layers, B, 3]`` (visual, non-visual, omni) of the last prompt pass; no layers without MoSE."""
        if self.last is None:
            return torch.zeros(0, 0, len(GROUPS))
        return torch.stack([self.last.weights[index] for index in sorted(self.last.weights)])

    def over_batch(self) -> tuple[str, ...]:
        """Regularisers that are one number for the whole batch and all processes, the same on each."""
        return ("gate_kl",) if self.config is not None and self.config.kl_scope == "global" else ()

    def regularisers(self, *, counted: bool = True) -> dict[str, Tensor]:
        """Unweighted regularisers of the last prompt pass, by name; empty without MoSE.

            gate_balance[b] = mean over layers of (w_v - w_n)^2
            gate_kl[b]      = mean over layers of sum_m w_m log(3 w_m)
            load_balance[b] = mean over projections and groups of  K sum_k (mean over tokens of g_mk)^2 - 1

        Args:
            counted: False if this process only keeps the others company: its samples are in no global mean.

        Returns:
            fp32 ``[B]`` each; ``gate_kl`` has one element with ``kl_scope='global'``; ``load_balance`` needs K > 1.
        """
        if self.last is None or self.config is None:
            return {}
        w = self.gate_weights()
        mean = _mean_of_all(w, counted) if self.config.kl_scope == "global" else w
        found = {
            "gate_balance": (w[..., 0] - w[..., 1]).square().mean(0),
            "gate_kl": (mean * (len(GROUPS) * mean).clamp(min=1e-12).log()).sum(-1).mean(0),
        }
        if self.last.loads:
            loads = torch.stack([load.to(w) for load in self.last.loads.values()])
            found["load_balance"] = (loads.shape[-1] * loads.square().sum(-1) - 1).mean(dim=(0, 2))
        return found

    def penalty(self, regularisers: Mapping[str, Tensor] | None = None) -> Tensor | float:
        """Weighted sum of the regularisers, each a mean over samples; 0 without MoSE or without weights."""
        found = self.regularisers() if regularisers is None else regularisers
        if self.config is None:
            return 0.0
        weights = self.config.regulariser_weights
        return sum((weights[name] * value.mean() for name, value in found.items() if weights[name]), 0.0)


def _rows(tensor: Tensor, batch: int) -> Tensor:
    """Rows as ``generate`` expands them for beams."""
    return tensor if len(tensor) == batch else tensor.repeat_interleave(batch // len(tensor), dim=0)


def _mean_of_all(w: Tensor, counted: bool) -> Tensor:
    """``[layers, B, 3]`` to ``[layers, 1, 3]``: mean over samples and processes, differentiable."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return w.mean(1, keepdim=True)
    from torch.distributed.nn.functional import all_reduce

    samples = w.new_tensor(float(w.shape[1] * counted))
    distributed.all_reduce(samples)
    return all_reduce((w.sum(1, keepdim=True) * float(counted)).contiguous()) / samples


def thinker_of(model: Any) -> Any:
    """The thinker inside an ``OmniBackbone`` or a ``PeftModel``; a thinker passes through."""
    from peft import PeftModel

    from mosear.backbones.backbone import OmniBackbone

    if isinstance(model, OmniBackbone):
        model = model.model
    if isinstance(model, PeftModel):
        model = model.get_base_model()
    return model


def conductor_of(model: Any) -> Conductor | None:
    """The conductor of an ``OmniBackbone``, a ``PeftModel`` or a thinker; ``None`` if it has no MoSE layers."""
    found: Conductor | None = getattr(thinker_of(model), ATTRIBUTE, None)
    return found


def open_states(thinker: Any) -> list[SequenceState]:
    """The states that are open for a thinker, innermost last: one list for the thinker's whole life."""
    if not hasattr(thinker, STATES):
        setattr(thinker, STATES, [])
    states: list[SequenceState] = getattr(thinker, STATES)
    return states


@contextmanager
def sequence_state(
    model: Any,
    *,
    roles: Tensor | None = None,
    prompt_mask: Tensor | None = None,
    hidden: Tensor | None = None,
    transcript: Tensor | None = None,
    quiet: bool = False,
) -> Iterator[SequenceState]:
    """Open a state for the passes of a block. The innermost applies; MoSE layers and steering sessions read it.

    Args:
        model: an ``OmniBackbone``, a ``PeftModel`` or a thinker.
        roles: see :class:`SequenceState`.
        prompt_mask: see :class:`SequenceState`.
        hidden: see :class:`SequenceState`.
        transcript: see :class:`SequenceState`.
        quiet: see :class:`SequenceState`.
    """
    state = SequenceState(roles, prompt_mask, hidden, transcript, quiet)
    states = open_states(thinker_of(model))
    states.append(state)
    try:
        yield state
    finally:
        states.remove(state)
