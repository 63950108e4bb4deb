"""What hooks on a thinker need: a call's arguments by name, and roles from the input ids.

The language model itself sees embeddings, so the ids are noted one level above it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mosear.roles import token_roles

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily


def arguments(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name."""
    if not args:
        return kwargs
    return {**inspect.signature(module.forward).bind_partial(*args).arguments, **kwargs}


def mask_shape(mask: Any) -> tuple[int, ...] | None:
    """Shape of a mask that is a tensor (transformers also passes dictionaries of masks)."""
    return tuple(mask.shape) if isinstance(mask, Tensor) else None


class InputRoles:
    """Roles of the tokens that a thinker is reading, for passes that nobody has described.

    Args:
        thinker: its inner model gets two hooks.
        family: knows which ids carry which modality.
    """

    def __init__(self, thinker: nn.Module, family: OmniFamily) -> None:
        self.family = family
        self._noted: tuple[Tensor, Tensor | None] | None = None
        inner = thinker.get_submodule(family.language_model_path.rpartition(".")[0])
        self._handles = [
            inner.register_forward_pre_hook(self._note_call, with_kwargs=True),
            inner.register_forward_hook(self._forget, with_kwargs=True, always_call=True),
        ]

    def note(self, given: dict[str, Any]) -> None:
        """Remember the ids of a call, if it has any."""
        ids = given.get("input_ids")
        self._noted = None if ids is None else (ids, given.get("attention_mask"))

    def of(self, batch: int, length: int) -> Tensor | None:
        """``[B, L]`` roles; ``None`` if the noted ids do not describe such a pass."""
        if self._noted is None:
            return None
        ids, mask = self._noted
        # generate() may hand over a mask that is already four-dimensional, which no longer says what is padding.
        if tuple(ids.shape) != (batch, length) or (mask is not None and (mask_shape(mask) != (batch, length))):
            return None
        return token_roles(ids, mask, audio_ids=self.family.audio_ids, visual_ids=self.family.visual_ids)

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _note_call(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.note(arguments(module, args, kwargs))

    def _forget(self, *_: Any) -> None:
        self._noted = None
