"""Hooks by which experts and steering take part in the passes of a language model.

A pass starts sequences (it reads whole prompts), or it continues those of a KV cache. Experts and steering take part in
passes as listeners of one set of hooks per thinker, :class:`SequenceHooks`:

    thinker's inner model     notes the input ids, from which roles can be derived
      language model          a listener starts or resumes; what it keeps about prompts goes into the KV cache
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mosear.backbones.generating import give_back, take_over
from mosear.backbones.prompt_cache import PromptRows, attach, attached
from mosear.backbones.sequences import HOOKS, SequenceState, open_states
from mosear.roles import token_roles

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily

NO_ROLES = (
    "{title} cannot tell which token carries which modality: this pass has embeddings but no input ids (or a mask that "
    "is not [B, L]). Wrap it in `with mosear.backbones.sequence_state(model, roles=..., prompt_mask=...):`."
)
CHUNKED = (
    "A pass with {length} new tokens on a filled KV cache looks like chunked prefill, which {title} refuses: it needs "
    "the whole prompt in one pass. Drop prefill_chunk_size. If these are answer tokens, wrap prompt and answer passes "
    "in `with mosear.backbones.sequence_state(model, roles=..., prompt_mask=...):`."
)
OTHER_ROWS = (
    "The KV cache holds {prompts} prompts, but the pass continues {batch} sequences. Expand the cache with its own "
    "batch_repeat_interleave or batch_select_indices, which take along what belongs to each prompt."
)


def arguments(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name."""
    if not args:
        return kwargs
    return {**inspect.signature(module.forward).bind_partial(*args).arguments, **kwargs}


class PassCall:
    """A pass that is about to run.

    Attributes:
        given: arguments of the language model by name.
        state: what is known of the sequences.
        batch: B.
        length: new tokens per sequence.
    """

    def __init__(self, given: dict[str, Any], state: SequenceState, batch: int, length: int, derived: Any) -> None:
        self.given, self.state, self.batch, self.length = given, state, batch, length
        self._derived = derived

    def described(self, title: str) -> tuple[Tensor, Tensor]:
        """Roles and prompt mask ``[B, L]``, see :meth:`SequenceState.described`.

        Raises:
            ValueError: if roles are neither given nor derivable; ``title`` says who needs them.
        """
        found = self.state.described(self._derived, self.batch, self.length)
        if found is None:
            raise ValueError(NO_ROLES.format(title=title))
        return found


class PassListener:
    """Takes part in the passes of a language model.

    Attributes:
        owner: under which a KV cache carries what it keeps about prompts.
        title: for messages.
        lost: what to say if a cache does not carry it (any more).
        fuses: after it, no token carries one modality alone.
    """

    owner: ClassVar[str]
    title: ClassVar[str]
    lost: ClassVar[str]
    fuses: ClassVar[bool] = False

    def listens(self, module: nn.Module) -> bool:
        """Does it take part in this pass?"""
        return True

    def start(self, call: PassCall) -> Any:
        """Before a pass that reads whole prompts; returns what belongs to this pass."""
        raise NotImplementedError

    def resume(self, call: PassCall, rows: PromptRows) -> Any:
        """Before a pass that continues cached prompts, with what the cache carries; returns what belongs to it."""
        raise NotImplementedError

    def arguments(self, own: Any) -> dict[str, Any]:
        """Keyword arguments of the language model: further ones, or others in the place of those it was called with."""
        return {}

    def finish(self, call: PassCall, own: Any) -> PromptRows | None:
        """After a pass that read prompts; returns what a KV cache is to carry."""
        return None


@dataclass
class _Frame:
    """A running pass and what each listener keeps about it."""

    call: PassCall | None = None
    starts: bool = False
    own: dict[PassListener, Any] = field(default_factory=dict)


class SequenceHooks:
    """The hooks of one thinker's language model. Passes may nest: a listener may run passes of its own when it starts.

    Args:
        thinker: the model.
        family: knows where the language model sits and which ids carry which modality.
    """

    def __init__(self, thinker: nn.Module, family: OmniFamily) -> None:
        self.thinker, self.family = thinker, family
        self.listeners: list[PassListener] = []
        # By thread: the passes that run now, and the ids that the inner model got. A pass that is refused in one thread
        # must not disturb a pass of another one.
        self._frames_of: dict[int, list[_Frame]] = {}
        self._noted: dict[int, tuple[Tensor, Tensor | None]] = {}
        inner = thinker.get_submodule(family.language_model_path.rpartition(".")[0])
        language_model = thinker.get_submodule(family.language_model_path)
        self._handles = [
            inner.register_forward_pre_hook(self._note_input, with_kwargs=True),
            inner.register_forward_hook(self._forget_input, with_kwargs=True, always_call=True),
            language_model.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True),
            language_model.register_forward_hook(self._end, with_kwargs=True, always_call=True),
        ]
        take_over(thinker)

    @classmethod
    def of(cls, thinker: Any, family: OmniFamily) -> SequenceHooks:
        """The thinker's hooks, made when they are first asked for."""
        if not hasattr(thinker, HOOKS):
            setattr(thinker, HOOKS, cls(thinker, family))
        hooks: SequenceHooks = getattr(thinker, HOOKS)
        return hooks

    def add(self, listener: PassListener) -> None:
        """Let a listener take part from the next pass on."""
        self.listeners.append(listener)

    def remove(self, listener: PassListener) -> None:
        """Leave a listener out from now on; the last one takes the hooks along."""
        self.listeners.remove(listener)
        if not self.listeners:
            for handle in self._handles:
                handle.remove()
            delattr(self.thinker, HOOKS)
            give_back(self.thinker)

    @property
    def _frames(self) -> list[_Frame]:
        """The passes that run now in this thread, the innermost last."""
        return self._frames_of.setdefault(get_ident(), [])

    def current(self, listener: PassListener) -> Any:
        """What belongs to a listener in the pass that runs now; ``None`` where it takes no part."""
        frames = self._frames_of.get(get_ident())
        return frames[-1].own.get(listener) if frames else None

    # -- roles of passes that are described by no state ---------------------------------------------------------------

    def _note_input(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given = arguments(module, args, kwargs)
        ids = given.get("input_ids")
        self._forget_input()
        if ids is not None:
            self._noted[get_ident()] = ids, given.get("attention_mask")

    def _forget_input(self, *_: Any) -> None:
        self._noted.pop(get_ident(), None)

    def _derived_roles(self, given: dict[str, Any], batch: int, length: int) -> Tensor | None:
        """``[B, L]`` roles from the ids; ``None`` if they do not describe such a pass."""
        noted = self._noted.get(get_ident())
        if given.get("inputs_embeds") is None:
            noted = given["input_ids"], given.get("attention_mask")
        if noted is None:
            return None
        ids, mask = noted
        # A mask of queries by keys does not say what is padding.
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else None
        if tuple(ids.shape) != (batch, length) or (mask is not None and shape != (batch, length)):
            return None
        return token_roles(ids, mask, audio_ids=self.family.audio_ids, visual_ids=self.family.visual_ids)

    # -- passes --------------------------------------------------------------------------------------------------------

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        frame = _Frame()
        self._frames.append(frame)
        active = [listener for listener in self.listeners if listener.listens(module)]
        if not active:
            return None
        given = arguments(module, args, kwargs)
        tokens = given.get("inputs_embeds")
        batch, length = (given["input_ids"] if tokens is None else tokens).shape[:2]
        states = open_states(self.thinker)
        state = states[-1] if states else SequenceState()
        key_values = given.get("past_key_values")
        frame.starts = key_values is None or not int(key_values.get_seq_length())
        derived = self._derived_roles(given, batch, length) if frame.starts else None
        frame.call = PassCall(given, state, batch, length, derived)
        for listener in active:
            if frame.starts:
                frame.own[listener] = listener.start(frame.call)
            else:
                frame.own[listener] = _resumed(listener, frame.call, key_values, known=bool(states))
        added = {name: value for own in active for name, value in own.arguments(frame.own[own]).items()}
        return (args, {**kwargs, **added}) if added else None

    def _end(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        frames = self._frames
        frame = frames.pop() if frames else _Frame()
        if not frames:
            del self._frames_of[get_ident()]
        if frame.call is None or not frame.starts or output is None:  # no part in it, a continuation, or an exception
            return
        key_values = arguments(module, args, kwargs).get("past_key_values")
        if key_values is None:
            key_values = getattr(output, "past_key_values", None)
        filled = key_values is not None and int(key_values.get_seq_length()) > 0
        for listener, own in frame.own.items():
            rows = listener.finish(frame.call, own)
            if filled and rows is not None:
                attach(key_values, listener.owner, rows)


def _resumed(listener: PassListener, call: PassCall, key_values: Any, *, known: bool) -> Any:
    """What belongs to a listener whose pass continues a cache. It may refuse the cache before rows are counted.

    Raises:
        ValueError: if the pass cannot be a continuation, or the cache is about other prompts.
    """
    if call.length > 1 and not known:
        raise ValueError(CHUNKED.format(length=call.length, title=listener.title))
    rows = attached(key_values, listener.owner)
    if rows is None:
        raise ValueError(listener.lost)
    own = listener.resume(call, rows)
    if len(rows) != call.batch:
        raise ValueError(OTHER_ROWS.format(prompts=len(rows), batch=call.batch))
    return own
