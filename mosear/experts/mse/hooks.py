"""Puts pseudo tokens into the passes of a language model.

In a pass that reads prompts, the first n media tokens of a clip become its pseudo tokens, and its other media tokens
become invisible, here and in every pass that continues the prompt. A clip with fewer media tokens gets as many pseudo
tokens as it has media tokens; one without media gets none. Positions stay those of the whole prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mosear.backbones.prompt_cache import PromptRows
from mosear.backbones.sequence_hooks import PassCall, PassListener, SequenceHooks
from mosear.experts.mse.layer import PseudoTokenLayer
from mosear.roles import TokenRole

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily

ATTRIBUTE = "mse_hooks"
"""Where a thinker with an MSE adapter keeps its hooks."""
GONE = "gone"

NO_TRANSCRIPT = (
    "MSE-Adapter cannot tell which tokens were spoken, and these guide its mix. Wrap the pass in `with "
    "mosear.backbones.sequence_state(model, roles=..., prompt_mask=..., transcript=...):`."
)
OTHER_MASK = (
    "MSE-Adapter hides media tokens in a boolean mask, but this pass has one of {dtype} for queries by keys. Load the "
    "backbone with attn_implementation='sdpa'."
)


class MSEHooks(PassListener):
    """Hooks of one model.

    Args:
        model: the thinker.
        family: knows where the language model sits.
        layer: makes the pseudo tokens.
    """

    owner: ClassVar[str] = "mse"
    title: ClassVar[str] = "MSE-Adapter"
    lost: ClassVar[str] = (
        "This KV cache does not say which media tokens are invisible: its prompt was read without the MSE adapter, or "
        "it was cropped. Read the whole prompt again with the adapter on."
    )
    fuses: ClassVar[bool] = True

    def __init__(self, model: nn.Module, family: OmniFamily, layer: PseudoTokenLayer) -> None:
        self.layer = layer
        self.language_model: Any = model.get_submodule(family.language_model_path)
        self._passes = SequenceHooks.of(model, family)
        self._passes.add(self)

    def detach(self) -> None:
        """Take no part any more."""
        self._passes.remove(self)

    def listens(self, module: nn.Module) -> bool:
        """While an adapter is active."""
        return self.layer.active_name() is not None

    def start(self, call: PassCall) -> dict[str, Any]:
        """The pass's embeddings and mask, with pseudo tokens."""
        roles, prompt = call.described(self.title)
        spoken = call.state.transcript_of(call.batch)
        if spoken is None:
            raise ValueError(NO_TRANSCRIPT)
        name = self.layer.active_name()
        assert name is not None, "it listens only while an adapter is active"
        embeds = call.given.get("inputs_embeds")
        if embeds is None:
            embeds = self.language_model.get_input_embeddings()(call.given["input_ids"])
        prompt = prompt & (roles != int(TokenRole.PAD))
        audio, visual = (prompt & (roles == int(role)) for role in (TokenRole.AUDIO, TokenRole.VISUAL))
        media = audio | visual
        rank = media.cumsum(1) - 1
        place = media & (rank < self.layer.tokens[name])
        pseudo = self.layer(embeds, audio, visual, prompt & spoken & ~media)
        which = rank.clamp(0, pseudo.shape[1] - 1)[..., None].expand(-1, -1, pseudo.shape[-1])
        embeds = torch.where(place[..., None], pseudo.gather(1, which), embeds)
        gone = media & ~place
        # Ids are replaced by embeddings; features for deeper layers belong to tokens that are no more.
        given = [key for key in ("input_ids", "deepstack_visual_embeds", "visual_pos_masks") if key in call.given]
        return {**dict.fromkeys(given), "inputs_embeds": embeds, "attention_mask": without(call, gone), GONE: gone}

    def resume(self, call: PassCall, rows: PromptRows) -> dict[str, Any]:
        """What is invisible in the cached prompts stays so."""
        if rows.note != self.layer.active_name():
            raise ValueError(
                f"This KV cache was filled under adapter {rows.note!r}, but {self.layer.active_name()!r} is active."
            )
        return {"attention_mask": without(call, rows.tensors[GONE])}

    def arguments(self, own: dict[str, Any]) -> dict[str, Any]:
        """Instead of those that the pass was called with."""
        return {name: value for name, value in own.items() if name != GONE}

    def finish(self, call: PassCall, own: dict[str, Any]) -> PromptRows:
        """A cache is to carry what is invisible."""
        return PromptRows({GONE: own[GONE]}, call.length, note=self.layer.active_name())


def without(call: PassCall, gone: Tensor) -> Tensor:
    """The attention mask of a pass, in which these tokens of the prompts ``[B, P]`` are invisible.

    Raises:
        ValueError: for a mask that is added to scores.
    """
    mask = call.given.get("attention_mask")
    past = call.given.get("past_key_values")
    keys = call.length + (0 if past is None else int(past.get_seq_length()))
    if mask is None:
        return (~functional.pad(gone, (0, keys - gone.shape[1]))).long()
    seen = ~functional.pad(gone, (0, mask.shape[-1] - gone.shape[1]))
    if mask.dim() == 2:
        return mask * seen.to(mask.dtype)
    if mask.dtype != torch.bool:
        raise ValueError(OTHER_MASK.format(dtype=mask.dtype))
    itself = torch.eye(mask.shape[-2], dtype=torch.bool, device=mask.device)  # no row may be empty
    itself = functional.pad(itself, (mask.shape[-1] - mask.shape[-2], 0))
    return mask & (seen[:, None, None] | itself)
